"""What is checked before a run is recorded in a folder, and what is stated about several ranks."""

from pathlib import Path

from cbn_lab import distributed, runs


def require_no_other_data(record: Path, sources: dict[str, str]) -> None:
    """A record names its data file without the folder, so two files of one name would share a record."""
    if record.exists() and (recorded := runs.load(record).provenance.get("data_sources")) != sources:
        raise ValueError(f"{record} holds a run with the same settings on other data ({recorded}; now {sources}); give "
                         "another folder, or another name to one of the two data files")


def require_no_other_ranks(record: Path, settings: dict) -> None:
    """A run goes on with as many ranks as it began with: its shares, and with them its results, depend on them."""
    ranks = settings.get("ranks", 1)
    for path in record.parent.glob(f"{record.stem.rpartition('-')[0]}-*.json"):
        run = runs.load(path)
        begun = run.config.get("ranks", 1)
        if run.status == "interrupted" and begun != ranks and _without_ranks(run.config) == _without_ranks(settings):
            raise ValueError(f"{path} was begun on {begun} ranks and cannot go on with {ranks}; start it with torchrun "
                             f"--nproc-per-node {begun}, or leave out the wish to resume")


def _without_ranks(settings: dict) -> str:
    return runs.name({name: value for name, value in settings.items() if name != "ranks"})


def provenance(trainer) -> dict:
    """Of a run, with what several ranks add: how many, and over how many images each norm takes its moments."""
    config = trainer.config
    found = runs.provenance(config.device, trainer.sources())
    if trainer.ranks > 1:
        batch, ranks = trainer.batch_size, trainer.ranks
        shares = [(rank + 1) * batch // ranks - rank * batch // ranks for rank in range(ranks)]
        found["ranks"] = {"count": ranks, "backend": "gloo" if config.device == "cpu" else "nccl",
                          "optimizer_batch": batch, "statistics": "joined" if config.sync_norm else "per rank",
                          "normalization_batch": [batch] if config.sync_norm else sorted(set(shares)),
                          "devices": distributed.gathered(found["device"])}
    return found
