"""The command line: `cbn-lab train | sweep | doctor | bench`.

Each command has its own arguments (`cbn-lab train --help`). An error of the user is one line on standard error.
Exit codes: 0 done, 1 a limit of `bench` was missed or a run of `sweep` failed, 2 wrong arguments, data or settings,
3 the loss of `train` was not finite, 4 one of the processes that train together was lost, 130 stopped by Ctrl-C.
"""

import argparse
import ast
import json
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

from tqdm import tqdm

COMMANDS = {
    "train": "train one network and record the run",
    "sweep": "train the runs of a grid that are not recorded yet",
    "doctor": "print versions, device, data found, and minutes per notebook",
    "bench": "measure the speed ratios and compare them with their limits",
}

# One line of help for each field of TrainConfig; types and defaults come from the class.
HELP = {
    "data": "digits, cifar10, cifar100, imagefolder:PATH or the path of an .npz",
    "model": "a name of cbn_lab.models",
    "activation": "a name of cbn_lab.activations, or one per block with commas",
    "placement": "where the normalization stands (cbn_lab.blocks), or one per block with commas",
    "model_options": "a size of the model, such as widths=32,64; can be repeated",
    "norm_options": "an option of the normalization, such as shift_lr_multiplier=4; can be repeated",
    "train_images": "use only the first n training images",
    "validation_images": "hold out the last n training images and evaluate on them",
    "epochs": "passes over the training images",
    "batch_size": "images per step",
    "lr": "peak learning rate of the schedule, per step",
    "momentum": "Nesterov momentum of SGD; 0 for plain SGD",
    "weight_decay": "added to the gradient as weight_decay * w",
    "decay_norm": "weight decay on gammas, shifts and biases as well",
    "crop_padding": "pixels of padding before a random crop (default: 4; digits: 1)",
    "flip": "random mirror (default: on; digits: off)",
    "seed": "of the weights, the order of the images, crops and flips",
    "device": "auto, cpu, cuda, cuda:1",
    "precision": "auto, fp32, bf16, fp16",
    "compile": "torch.compile the model (GPU only)",
    "cuda_graphs": "replay forward and backward pass as CUDA graphs (GPU only)",
    "evaluate_every": "evaluate after every n-th epoch; 0: only after the last",
    "log_every": "steps between two entries of the curve (default: 20 entries an epoch)",
    "sync_norm": "on several ranks, normalize by the moments of the joined batch",
    "ranks": "processes that share each batch, as many as torchrun starts; given, it is checked",
    "schedule": "one_cycle, or steps: lr divided by 10 after 1/3, 2/3 and 8/9 of the epochs",
    "image_size": "of an imagefolder: cut photographs of any size to this, decoded while training",
}
_PLAIN_LINES = 10  # in a run without a terminal


class Parser(argparse.ArgumentParser):
    """argparse, with errors of one line."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str):
        raise ValueError(f"{message} (see {self.prog} --help)")


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(prog="cbn-lab", description="Train networks with batch normalization in all its places, and "
                    "check what this machine can do.", formatter_class=argparse.RawDescriptionHelpFormatter,
                    epilog="\n".join(f"  {name:<7} {text}" for name, text in COMMANDS.items())
                    + "\n\n`cbn-lab COMMAND --help` lists a command's arguments.")
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="arguments of the command")

    def run() -> int:
        options = parser.parse_args(arguments)
        command = {"train": _train, "sweep": _sweep, "doctor": _doctor, "bench": _bench}[options.command]
        return command(options.arguments)

    return _reported(run)


def _reported(work: Callable[[], int]) -> int:
    """The exit code of `work`, its errors as one line."""
    try:
        return work()
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    except BrokenPipeError:  # `cbn-lab doctor | head -1`
        sys.stderr.close()
        return 1
    except (ValueError, OSError) as error:
        return _complain(f"error: {error}", 2)


def _complain(message: str, code: int) -> int:
    distributed = sys.modules.get("cbn_lab.distributed")  # without it, there is one process
    if distributed is None or distributed.first_to("complain"):
        print(f"cbn-lab: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return code


def _doctor(arguments: list[str]) -> int:
    from cbn_lab import doctor

    parser = Parser(prog="cbn-lab doctor", description=COMMANDS["doctor"].capitalize() + ". Uses no network.")
    parser.add_argument("--root", help="folder with data sets, looked into first")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    report = doctor.report(options.root)
    print(json.dumps(report) if options.json else doctor.text(report))
    return 0


def _bench(arguments: list[str]) -> int:
    from cbn_lab import bench

    parser = Parser(prog="cbn-lab bench", description="Measure the speed ratios, each between two arms that alternate "
                    "in one run; exit code 1 if one misses its limit. Close other programs first.")
    parser.add_argument("--only", action="append", choices=bench.ENTRIES, help="measure this entry; can be repeated")
    parser.add_argument("--out", default="results/bench", help="folder for the records (default: %(default)s)")
    parser.add_argument("--root", help="folder with cifar10.npz or torchvision's CIFAR-10")
    parser.add_argument("--repeats", type=int, default=9, help="of each arm, at least 5 (default: %(default)s)")
    options = parser.parse_args(arguments)
    return bench.main(options.only, out=options.out, root=options.root, repeats=options.repeats)


def _sweep(arguments: list[str]) -> int:
    from cbn_lab import gridfile, sweep

    parser = Parser(prog="cbn-lab sweep", formatter_class=argparse.RawDescriptionHelpFormatter, description="Train the "
                    "runs of a grid that are not recorded yet, and print a table of all of them: mean\nand range over "
                    "the seeds. It can be stopped and started at will, and run twice at a time.\nExit code 1 if a run "
                    "failed.", epilog=f"results/example_sweep.toml is a grid of half a minute.\n\n{gridfile.__doc__}")
    parser.add_argument("grid", help="a TOML file, as described below")
    sweep.add_options(parser, "runs")
    options = vars(parser.parse_args(arguments))
    return sweep.command(gridfile.read(options.pop("grid")), **options)


# train


def train_parser() -> Parser:
    """One option for each field of TrainConfig, absent from the result where it is not given, and those of the run."""
    from cbn_lab.train import TrainConfig

    parser = Parser(
        prog="cbn-lab train", description="Train one network, show a bar, and end with a line of results and the path "
        "of the record. A finished run of equal settings in the same folder is overwritten (with --resume: kept, and "
        "not trained again).")
    settings = parser.add_argument_group("settings of the run")
    for field in fields(TrainConfig):
        settings.add_argument(f"--{field.name.removesuffix('s') if field.type is dict else field.name}"
                              .replace("_", "-"), dest=field.name, default=argparse.SUPPRESS, **_kind(field))
    parser.add_argument("--out", default="runs", help="folder for records and checkpoints (default: %(default)s)")
    parser.add_argument("--root", help="folder with data sets, looked into first")
    parser.add_argument("--download", action="store_true", help="fetch CIFAR-10 or CIFAR-100 if it is nowhere")
    parser.add_argument("--workers", type=_workers, help="processes that decode photographs, 0 for none of their own "
                        "(default: one for each core); changes no number")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint of equal settings, if any")
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object, on the last line")
    return parser


def _workers(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, 0 or more, got {text!r}")
    return int(text)


def _kind(field) -> dict:
    """argparse's arguments for a field of TrainConfig, from its type and default."""
    text = HELP[field.name]
    if field.type is dict:
        return {"action": "append", "type": _pair, "metavar": "KEY=VALUE", "help": text}
    default = "" if field.default is None else f" (default: {field.default})"
    if field.type in (bool, bool | None):
        return {"action": argparse.BooleanOptionalAction, "help": text + default}
    kind = {str | tuple: _one_or_more, int | None: int}.get(field.type, field.type)
    return {"type": kind, "metavar": field.name.split("_")[-1].upper(), "help": text + default}


def _one_or_more(text: str) -> str | tuple:
    names = tuple(name.strip() for name in text.split(","))
    return names if len(names) > 1 else names[0]


def _pair(text: str) -> tuple:
    """KEY=VALUE -> (key, value); a value that is no Python literal is a string."""
    key, equals, value = text.partition("=")
    if not (equals and key.isidentifier()):
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {text!r}")
    with suppress(ValueError, SyntaxError):
        value = ast.literal_eval(value)
    return key, value


def _train(arguments: list[str]) -> int:
    from cbn_lab import distributed

    with distributed.group():
        try:
            with distributed.watching():
                return _reported(lambda: _train_here(arguments))
        except distributed.LostRankError as error:  # before the first step
            return _complain(f"error: {error}", 4)


def _train_here(arguments: list[str]) -> int:
    """This process's part of the training. Rank 0 shows and writes for all."""
    from cbn_lab import distributed, runs
    from cbn_lab.train import DivergedError

    config, out, as_json, place = distributed.together(lambda: _options(arguments))
    path = out / f"{runs.name(config.record())}.json"
    run = failure = None
    try:
        run = _run(config, path, place)
    except (DivergedError, distributed.LostRankError) as error:
        failure = error
    if distributed.rank() == 0 and (run or path.exists()):
        _show(run or runs.load(path), path, as_json)
    if isinstance(failure, distributed.LostRankError):
        return _interrupted(path, f"error: {failure}", 4)
    if failure is not None:
        return _complain(f"error: {failure}", 3)
    return _interrupted(path, distributed.why_stopped(), 130) if run.status == "interrupted" else 0


def _options(arguments: list[str]):
    from cbn_lab.train import TrainConfig

    options = vars(train_parser().parse_args(arguments))
    out, as_json = Path(options.pop("out")), options.pop("json")
    place = {name: options.pop(name) for name in ("root", "download", "resume", "workers")}
    for name in ("model_options", "norm_options"):
        if name in options:
            options[name] = dict(options[name])
    return TrainConfig(**options).resolved(), out, as_json, place


def _show(run, path: Path, as_json: bool) -> None:
    if not as_json:
        print(run.summary())
        print(path)
    else:
        print(json.dumps({key: run.final.get(key) for key in ("test_accuracy", "train_loss", "images_per_second")}
                         | {"record": str(path), "status": run.status}))


def _run(config, path: Path, place: dict):
    """The run, trained or, when it is to be resumed and has finished, read."""
    from cbn_lab import distributed
    from cbn_lab.train import DivergedError, fit

    run = distributed.from_rank_zero(lambda: _prepared(path, place["resume"]))
    if run is not None:
        return run
    try:
        with distributed.watching(), _Bar() as bar:
            return fit(config, out=path.parent, on_progress=bar if distributed.rank() == 0 else None, **place)
    except (DivergedError, distributed.LostRankError, ValueError, OSError):
        raise
    except (TypeError, RuntimeError, ArithmeticError) as error:
        if "out of memory" in str(error):
            raise ValueError("the device has too little memory for this run; try a smaller --batch-size") from error
        if not (config.model_options or config.norm_options):
            raise
        raise ValueError(f"{config.model!r} cannot be built or run with these --model-option or --norm-option: "
                         f"{error}") from error


def _prepared(path: Path, resume: bool):
    """The folder for the record made; the run, where it is to be resumed and has finished, else None."""
    from cbn_lab import runs

    checkpoint = path.with_suffix(".ckpt")
    if resume and not checkpoint.exists():
        if path.exists() and (run := runs.load(path)).status == "finished":
            print("this run has finished; without --resume it is trained again", file=sys.stderr)
            return run
        print(f"there is no checkpoint {checkpoint}; starting at the beginning", file=sys.stderr)
    path.parent.mkdir(parents=True, exist_ok=True)  # a wrong --out is found before training
    return None


def _interrupted(path: Path, why: str, code: int) -> int:
    start = "from the last checkpoint" if path.with_suffix(".ckpt").exists() else \
        "from the beginning, since there is no checkpoint yet"
    return _complain(f"{why}; what was recorded is kept. The same command with --resume goes on {start}.", code)


class _Bar:
    """Shows progress records on standard error: a bar on a terminal, elsewhere about ten lines."""

    def __init__(self):
        self._bar, self._lines, self._tested = None, 0, ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.close()

    def __call__(self, progress) -> None:
        numbers = [f"{name.replace('_', ' ')} {100 * value:.1f} %" for name, value in progress.evaluation.items()
                   if name.endswith("accuracy")]
        self._tested = ", ".join(["", *numbers]) if numbers else self._tested
        state = f"loss {progress.loss:.3f}, accuracy {100 * progress.accuracy:.1f} %{self._tested}"
        if sys.stderr.isatty():
            self._advance(progress, state)
        elif progress.step * _PLAIN_LINES // progress.steps > self._lines:
            self._lines = progress.step * _PLAIN_LINES // progress.steps
            print(f"step {progress.step} of {progress.steps}: {state}, {progress.remaining_seconds:.0f} s left",
                  file=sys.stderr, flush=True)

    def _advance(self, progress, state: str) -> None:
        if self._bar is None:  # made late, because only a record knows the number of steps
            size = shutil.get_terminal_size()  # tqdm shows nothing where a terminal says that it has 0 rows
            self._bar = tqdm(total=progress.steps, ncols=size.columns, nrows=size.lines,
                             bar_format="{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} steps{postfix}")
        self._bar.set_postfix_str(f"{state}, {tqdm.format_interval(progress.remaining_seconds)} left", refresh=False)
        self._bar.update(progress.step - self._bar.n)


if __name__ == "__main__":
    sys.exit(main())
