"""What torchrun tells the processes that it starts, in environment variables."""

import os


def world_size() -> int:
    """How many processes train together: 1 where WORLD_SIZE is not set, or is empty, as on some clusters.

    With more than 1, the other variables have been checked. ValueError says what is wrong with which, and what to do.
    """
    size = _number("WORLD_SIZE", 1, None, default=1)
    if size > 1:
        _number("RANK", 0, size - 1)
        _number("LOCAL_RANK", 0, size - 1, default=0)
        _number("MASTER_PORT", 1, 2**16 - 1)
        _require(bool(_word("MASTER_ADDR")), "MASTER_ADDR is not set")
    return size


def _word(name: str) -> str:
    return os.environ.get(name, "").strip()


def _number(name: str, least: int, most: int | None, default: int | None = None) -> int:
    word = _word(name)
    if not word and default is not None:
        return default
    _require(bool(word), f"{name} is not set")
    expected = f"{least} or more" if most is None else f"from {least} to {most}"
    _require(word.isdecimal() and least <= int(word) and (most is None or int(word) <= most),
             f"{name} must be a whole number, {expected}, got {word!r}")
    return int(word)


def _require(condition: bool, fault: str) -> None:
    if not condition:
        beside = "" if "WORLD_SIZE" in fault else f"WORLD_SIZE is {_word('WORLD_SIZE')}, but "
        raise ValueError(
            f"in the environment, {beside}{fault}. torchrun sets WORLD_SIZE, RANK, LOCAL_RANK, MASTER_ADDR and "
            "MASTER_PORT for each of the processes that train together: start with torchrun --nproc-per-node N -m "
            "cbn_lab.cli train ...; to train in one process, unset WORLD_SIZE")
