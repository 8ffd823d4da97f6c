"""The state of a `Trainer` in a file: everything that the rest of a run depends on."""

from io import BytesIO
from pathlib import Path

import torch

from cbn_lab import distributed, runs
from cbn_lab.config import require


def write(trainer, path) -> None:
    """Rank 0 writes it; the file appears whole or not at all."""
    if distributed.rank() != 0:
        return
    state = {"run": runs.name(trainer.config.record()), "sources": trainer.sources(),
             "model": trainer.model.state_dict(), "optimizer": trainer.optimizer.state_dict(),
             "schedule": trainer.schedule.state_dict(), "scaler": trainer.scaler.state_dict(), "step": trainer.step,
             "seconds": trainer.seconds, "epoch_loss": trainer.epoch_loss, "curve": trainer.curve}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = BytesIO()
    torch.save(state, buffer)  # not into the file: of a full disk torch says "iostream error"
    runs.write_whole(path, lambda temporary: temporary.write_bytes(buffer.getbuffer()))


def read(trainer, path) -> None:
    """Rank 0 reads it for all. ValueError if the file is damaged or belongs to other settings or other data."""
    try:
        file = BytesIO(distributed.from_rank_zero(Path(path).read_bytes))
        state = torch.load(file, map_location=trainer.config.device, weights_only=True)
        run, sources, scaler = state["run"], state["sources"], state["scaler"]
    except Exception as error:  # zip, pickle and torch each raise their own kinds
        raise ValueError(
            f"the checkpoint {path} cannot be read ({type(error).__name__}); delete it and start again") from error
    require(run == runs.name(trainer.config.record()),
            f"the checkpoint {path} belongs to a run with other settings; delete it or give another folder")
    require(sources == trainer.sources(),
            f"the data have changed since the checkpoint {path} was written ({sources['train']}; now "
            f"{trainer.sources()['train']}); delete it and start again, or bring the old data back")
    trainer.model.load_state_dict(state["model"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    trainer.schedule.load_state_dict(state["schedule"])
    trainer.scaler.load_state_dict(scaler)
    trainer.step, trainer.seconds = state["step"], state["seconds"]
    trainer.epoch_loss, trainer.curve = state["epoch_loss"], state["curve"]
