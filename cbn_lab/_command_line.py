"""What the commands of the command line share: arguments and errors of one line each, and exit codes."""

import argparse
import sys
from collections.abc import Callable


class Parser(argparse.ArgumentParser):
    """argparse, with errors of one line."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str):
        raise ValueError(f"{message} (see {self.prog} --help)")


def reported(work: Callable[[], int]) -> int:
    """The exit code of `work`, its errors as one line."""
    try:
        return work()
    except KeyboardInterrupt:
        return complain("interrupted", 130)
    except BrokenPipeError:  # `cbn-lab doctor | head -1`
        sys.stderr.close()
        return 1
    except (ValueError, OSError) as error:
        return complain(f"error: {error}", 2)


def complain(message: str, code: int) -> int:
    distributed = sys.modules.get("cbn_lab.distributed")  # without it, there is one process
    if distributed is None or distributed.first_to("complain"):
        print(f"cbn-lab: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return code
