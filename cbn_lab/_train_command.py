"""`cbn-lab train`: one run, in this process or in one of several that torchrun started, of which rank 0 speaks."""

import json
import shutil
import sys
from pathlib import Path

from tqdm import tqdm

from cbn_lab import distributed, runs, train
from cbn_lab._command_line import complain, reported
from cbn_lab._train_options import train_parser

_PLAIN_LINES = 10  # in a run without a terminal


def main(arguments: list[str]) -> int:
    with distributed.group():
        try:
            with distributed.watching():
                return reported(lambda: _train(arguments))
        except distributed.LostRankError as error:  # before the first step
            return complain(f"error: {error}", 4)


def _train(arguments: list[str]) -> int:
    """This process's part of the training. Rank 0 shows and writes for all."""
    config, out, as_json, place = distributed.together(lambda: _options(arguments))
    path = out / f"{runs.name(config.record())}.json"
    run = failure = None
    try:
        run = _run(config, path, place)
    except (train.DivergedError, distributed.LostRankError) as error:
        failure = error
    if distributed.rank() == 0 and path.exists():
        _show(runs.load(path), path, as_json)  # with the digits of the record, and not with more
    if isinstance(failure, distributed.LostRankError):
        return _interrupted(path, f"error: {failure}", 4)
    if failure is not None:
        return complain(f"error: {failure}", 3)
    return _interrupted(path, distributed.why_stopped(), 130) if run.status == "interrupted" else 0


def _options(arguments: list[str]):
    options = vars(train_parser().parse_args(arguments))
    out, as_json = Path(options.pop("out")), options.pop("json")
    place = {name: options.pop(name) for name in ("root", "download", "resume", "workers")}
    for name in ("model_options", "norm_options"):
        if name in options:
            options[name] = dict(options[name])
    return train.TrainConfig(**options).resolved(), out, as_json, place


def _show(run, path: Path, as_json: bool) -> None:
    if not as_json:
        print(run.summary())
        print(path)
    else:
        print(json.dumps({key: run.final.get(key) for key in ("test_accuracy", "train_loss", "images_per_second")}
                         | {"record": str(path), "status": run.status}))


def _run(config, path: Path, place: dict):
    """The run, trained or, when it is to be resumed and has finished, read."""
    run = distributed.from_rank_zero(lambda: _prepared(path, place["resume"]))
    if run is not None:
        return run
    try:
        with distributed.watching(), Bar() as bar:
            return train.fit(config, out=path.parent, on_progress=bar if distributed.rank() == 0 else None, **place)
    except (train.DivergedError, distributed.LostRankError, ValueError, OSError):
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
    checkpoint = path.with_suffix(".ckpt")
    if resume and not checkpoint.exists():
        if path.exists() and (run := runs.load(path)).status == "finished":
            print("this run has finished; without --resume it is trained again", file=sys.stderr)
            return run
        print(f"there is no checkpoint {checkpoint}; starting at the beginning", file=sys.stderr)
    runs.made(path.parent)  # a wrong --out is found before training
    return None


def _interrupted(path: Path, why: str, code: int) -> int:
    start = "from the last checkpoint" if path.with_suffix(".ckpt").exists() else \
        "from the beginning, since there is no checkpoint yet"
    return complain(f"{why}; what was recorded is kept. The same command with --resume goes on {start}.", code)


class Bar:
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
