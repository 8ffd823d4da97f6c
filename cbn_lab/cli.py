"""The command line: `cbn-lab train | sweep | doctor | bench`.

Each command has its own arguments (`cbn-lab train --help`). An error of the user is one line on standard error.
Exit codes: 0 done, 1 a limit of `bench` was missed, a run of `sweep` failed or `doctor` found an unusable photograph,
2 wrong arguments, data or settings, 3 the loss of `train` was not finite, 4 one of the processes that train together
was lost, 130 stopped by Ctrl-C.
"""

import argparse
import json
import sys

from cbn_lab._command_line import Parser, reported

COMMANDS = {
    "train": "train one network and record the run",
    "sweep": "train the runs of a grid that are not recorded yet",
    "doctor": "print versions, device, data found, and minutes per notebook; or check photographs",
    "bench": "measure the speed ratios and compare them with their limits",
}


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

    return reported(run)


def _train(arguments: list[str]) -> int:
    from cbn_lab import _train_command

    return _train_command.main(arguments)


def _doctor(arguments: list[str]) -> int:
    from cbn_lab import doctor
    from cbn_lab._train_options import _workers

    parser = Parser(prog="cbn-lab doctor", description=COMMANDS["doctor"].capitalize() + ". Uses no network.")
    parser.add_argument("--root", help="folder with data sets, looked into first")
    parser.add_argument("--photographs", metavar="PATH", help="instead, decode every image of imagefolder:PATH once, "
                        "and list the files that would end a training; exit code 1 if there are any")
    parser.add_argument("--workers", type=_workers, help="processes that decode photographs, 0 for none of their own "
                        "(default: one for each core)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    if options.photographs is not None:
        from cbn_lab import _photograph_check  # imports torch and Pillow, without which the report must be readable

        return _photograph_check.main(options.photographs, options.workers, options.json)
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


if __name__ == "__main__":
    code = main()
    distributed = sys.modules.get("cbn_lab.distributed")  # without it, there is one process
    sys.exit(code) if distributed is None else distributed.leave(code)
