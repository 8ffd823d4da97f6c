"""The record of a run and the checkpoint beside it: looked for at the start, written on the way and at the end."""

from pathlib import Path

from cbn_lab import distributed, runs


class Record:
    """The file of a trainer's run in the folder `out`, which rank 0 writes; no file where `out` is None.

    ValueError if `out` is a file, if the folder holds a run with the same settings on other data, or, with `resume`,
    one that was begun on another number of ranks. With `resume` the trainer goes on from the checkpoint, if there is
    one.
    """

    def __init__(self, trainer, out, resume: bool):
        self._trainer, self._settings = trainer, trainer.config.record()
        self.path = None if out is None else Path(out) / f"{runs.name(self._settings)}.json"
        self.checkpoint = None if out is None else self.path.with_suffix(".ckpt")
        if out is not None:
            distributed.from_rank_zero(lambda: str(runs.made(out)))  # now, and not at the first checkpoint
            distributed.from_rank_zero(self._require_no_other_data)
            if resume and not trainer.restore(self.checkpoint, missing_ok=True):
                distributed.from_rank_zero(self._require_no_other_ranks)
        self._provenance = _provenance(trainer)  # now: files may be edited during the run

    def save(self, status: str) -> runs.Run:
        """The run as it stands. The checkpoint is removed unless the run can go on."""
        trainer = self._trainer
        run = runs.Run(self._settings, trainer.curve, trainer.final() if status == "finished" else {},
                       self._provenance, status)
        if self.path is not None and trainer.rank == 0:
            runs.save(run, self.path.parent)
            if status != "interrupted":  # with what a killed write left half done
                for file in self.path.parent.glob(f"{self.checkpoint.name}*"):
                    file.unlink(missing_ok=True)
        return run

    def _require_no_other_data(self) -> None:
        """A record names its data file without the folder, so two files of one name would share a record."""
        sources = self._trainer.sources()
        if self.path.exists() and (recorded := runs.load(self.path).provenance.get("data_sources")) != sources:
            raise ValueError(f"{self.path} holds a run with the same settings on other data ({recorded}; now "
                             f"{sources}); give another folder, or another name to one of the two data files")

    def _require_no_other_ranks(self) -> None:
        """The shares of the batches, and with them the results, depend on the number of ranks."""
        ranks = self._settings.get("ranks", 1)
        for path in self.path.parent.glob(f"{self.path.stem.rpartition('-')[0]}-*.json"):  # all but the hash
            try:
                run = runs.load(path)
            except runs.RecordError:  # of another run (this one's has been read): it says so where it is used itself
                continue
            begun = run.config.get("ranks", 1)
            if run.status == "interrupted" and begun != ranks and \
                    _without_ranks(run.config) == _without_ranks(self._settings):
                raise ValueError(f"{path} was begun on {begun} ranks and cannot go on with {ranks}; start it with "
                                 f"torchrun --nproc-per-node {begun}, or do not resume it")


def _without_ranks(settings: dict) -> str:
    return runs.name({name: value for name, value in settings.items() if name != "ranks"})


def _provenance(trainer) -> dict:
    """Of a run, with what several ranks add: how many, and over how many images each norm takes its moments."""
    config, batch, ranks = trainer.config, trainer.batch_size, trainer.ranks
    found = runs.provenance(config.device, trainer.sources())
    if ranks > 1:
        shares = {(rank + 1) * batch // ranks - rank * batch // ranks for rank in range(ranks)}
        together = ("joined", [batch]) if config.sync_norm else ("per rank", sorted(shares))
        statistics, normalized = together if config.normalizes else ("none", [])
        found["ranks"] = {"count": ranks, "backend": "gloo" if config.device == "cpu" else "nccl",
                          "optimizer_batch": batch, "statistics": statistics, "normalization_batch": normalized,
                          "devices": distributed.gathered(found["device"])}
    return found
