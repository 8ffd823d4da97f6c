"""The settings of a run, checked when they are made and resolved to what they mean on this machine."""

import json
import math
import os
import re
from dataclasses import asdict, dataclass, field, fields, replace
from numbers import Integral
from pathlib import Path

import torch

from cbn_lab import distributed

# (name, least value, whether None is allowed)
_WHOLE_NUMBERS = (("epochs", 1, False), ("batch_size", 1, False), ("validation_images", 0, False),
                  ("evaluate_every", 0, False), ("seed", 0, False), ("train_images", 1, True), ("log_every", 1, True),
                  ("crop_padding", 0, True), ("ranks", 1, False), ("image_size", 1, True))
# Added after the first runs were recorded: left out of a record at their default, so that those runs keep their names.
_LATER = ("cuda_graphs", "sync_norm", "ranks", "schedule", "image_size")


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a run. Equal settings, device and versions give the same run on a CPU.

    data              a name or path that `data.load` knows
    train_images      use only the first n of the training split (None: all)
    validation_images hold out the last n of the training split and evaluate on them after each epoch; the test split
                      is then evaluated once, after the last, and is for reporting, not for choosing
    model_options     sizes for `models.build`; norm_options: for every block
    lr                peak learning rate of the schedule, per step of `batch_size` images
    weight_decay      added to the gradient as weight_decay * w (not decoupled)
    decay_norm        whether gammas, shifts and biases (all 1-d parameters) decay too. Off by rule 4 of
                      results/PROTOCOL.md, which was tested with placement "complete" only: set it alike in comparisons
    crop_padding      pixels of zero padding before a random crop; flip: random mirror. None: the data set's recipe,
                      which is 4 and True, for digits 1 and False, with an image_size 0 and True
    device            "auto", "cpu", "cuda", "cuda:1"
    precision         "fp32"; "bf16": autocast; "fp16": autocast with a scaled loss; "auto": bf16 where it is fast, else
                      fp16 on a GPU and fp32 on a CPU
    compile           torch.compile the model (GPU only)
    cuda_graphs       replay the forward and backward pass as CUDA graphs, for small nets that wait for kernel launches
                      (GPU only; with or without `compile`)
    evaluate_every    evaluate after every n-th epoch; the last is always evaluated. 0: only the last
    log_every         steps between progress records; None: 20 records an epoch
    sync_norm         with several ranks: normalize by the moments of the joined batch; else each rank by those of its
                      share, and rank 0's running statistics are the run's. Without norms, or on one rank, False
    ranks             processes that share each batch (`cbn_lab.distributed`); 1 becomes as many as torchrun started
    schedule          of the learning rate: "one_cycle", or "steps": divided by 10 after 1/3, 2/3 and 8/9 of the epochs,
                      without warm-up
    image_size        for an image folder: cut this many pixels a side out of photographs of any size, decoded as they
                      are needed (`cbn_lab.stream`; no crop_padding then). None: images of one size, held in memory;
                      with resnet50 it means 224
    """

    data: str = "digits"
    model: str = "convnet"
    activation: str | tuple = "relu"
    placement: str | tuple = "complete"
    model_options: dict = field(default_factory=dict)
    norm_options: dict = field(default_factory=dict)
    train_images: int | None = None
    validation_images: int = 0
    epochs: int = 3
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay_norm: bool = False
    crop_padding: int | None = None
    flip: bool | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    compile: bool = False
    evaluate_every: int = 1
    log_every: int | None = None
    cuda_graphs: bool = False
    sync_norm: bool = False
    ranks: int = 1
    schedule: str = "one_cycle"
    image_size: int | None = None

    def __post_init__(self):
        for name in ("lr", "momentum", "weight_decay"):
            value = getattr(self, name)
            require(isinstance(value, (int, float)) and math.isfinite(value),
                    f"{name} must be a finite number, got {value!r}")
            object.__setattr__(self, name, float(value))  # 1, 1.0 and NumPy's 1.0 are one setting, with one record
        require(self.lr > 0, f"lr must be positive, got {self.lr}")
        require(0 <= self.momentum < 1, f"momentum must be at least 0 and below 1, got {self.momentum}")
        require(self.weight_decay >= 0, f"weight_decay must not be negative, got {self.weight_decay}")
        for name, least, optional in _WHOLE_NUMBERS:
            value = getattr(self, name)
            if value is None and optional:
                continue
            require(isinstance(value, Integral) and not isinstance(value, bool) and value >= least,
                    f"{name} must be at least {least}, a whole number{' or None' * optional}, got {value!r}")
            object.__setattr__(self, name, int(value))
        for name in ("decay_norm", "flip", "compile", "cuda_graphs", "sync_norm"):
            value = getattr(self, name)
            require(isinstance(value, bool) or (value is None and name == "flip"),
                    f"{name} must be True or False, got {value!r}")
        require(self.schedule in ("one_cycle", "steps"),
                f"schedule must be 'one_cycle' or 'steps', got {self.schedule!r}")
        require(self.precision in ("auto", "fp32", "bf16", "fp16"),
                f"precision must be 'auto', 'fp32', 'bf16' or 'fp16', got {self.precision!r}")
        require(isinstance(self.device, str) and re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device) is not None,
                f"device must be 'auto', 'cpu', 'cuda' or 'cuda:1', got {self.device!r}")
        require(isinstance(self.data, (str, os.PathLike)), f"data must be a name or a path, got {self.data!r}")
        object.__setattr__(self, "data", os.fspath(self.data))
        for name in ("model_options", "norm_options"):
            require(isinstance(getattr(self, name), dict), f"{name} must be a dictionary, got {getattr(self, name)!r}")
        self._require_recordable()

    def _require_recordable(self) -> None:
        """A run is recorded as JSON, which has no word for objects, numpy's numbers or NaN."""
        for name in ("model", "activation", "placement", "model_options", "norm_options"):
            try:
                json.dumps(getattr(self, name), allow_nan=False)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{name} must consist of names, plain finite numbers and lists, which a record can "
                                 f"hold, got {getattr(self, name)!r} ({error}); register an own module under a name") \
                    from None

    def resolved(self) -> "TrainConfig":
        """The same settings with every "auto" and every None of a recipe replaced by what it means here.

        What has no effect here gets one value, so that equal runs have equal names: with one rank, or without a norm,
        sync_norm is False. Of several ranks, each resolves inside `distributed.group()`, where it is one of several.
        """
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        require(device == "cpu" or torch.cuda.is_available(),
                 f"device {device!r} was asked for, but torch finds no GPU here; use device='cpu'")
        for name in ("compile", "cuda_graphs"):
            require(not (getattr(self, name) and device == "cpu"), f"{name}=True is for GPUs; leave it off on a CPU")
        precision = self.precision
        if precision == "auto":
            precision = "bf16" if has_fast_bf16(device) else "fp32" if device == "cpu" else "fp16"
        ranks = distributed.ranks()
        self._require_fitting(device, ranks)
        image_size = self.image_size
        if image_size is None and self.model == "resnet50" and self.data.startswith("imagefolder:"):
            image_size = 224
        padding, flip = (1, False) if self.data == "digits" else (4 if image_size is None else 0, True)
        return replace(self, device=device, precision=precision, ranks=ranks, image_size=image_size,
                       sync_norm=self.sync_norm and ranks > 1 and self.normalizes,
                       crop_padding=padding if self.crop_padding is None else self.crop_padding,
                       flip=flip if self.flip is None else self.flip)

    def _require_fitting(self, device: str, ranks: int) -> None:
        """What several ranks ask of the other settings."""
        require(self.ranks in (1, ranks),
                f"ranks={self.ranks} was asked for, and there are {ranks}; start the run with torchrun "
                f"--nproc-per-node {self.ranks} -m cbn_lab.cli train ...")
        if ranks == 1:
            return
        require(device in ("cpu", "cuda"),
                f"with {ranks} ranks each takes a GPU of its own; use device='cuda', not {device!r}")
        require(device == "cpu" or distributed.local_rank() < torch.cuda.device_count(),
                f"there is no GPU for rank {distributed.rank()}: this machine has {torch.cuda.device_count()}; start "
                "as many ranks on it")
        require("sync" not in self.norm_options, "with several ranks, say sync_norm=True or False; leave 'sync' out of "
                                                 "norm_options")
        require(not (self.cuda_graphs and self.sync_norm),
                "sync_norm=True with cuda_graphs=True is not supported on several ranks; leave one of them off")

    @property
    def normalizes(self) -> bool:
        """Whether any block has a norm."""
        return ({self.placement} if isinstance(self.placement, str) else set(self.placement)) != {"none"}

    def record(self) -> dict:
        """As a dictionary for a recorded run: paths are cut to their last part."""
        defaults = {field.name: field.default for field in fields(self)}
        settings = {name: value for name, value in asdict(self).items()
                    if name not in _LATER or value != defaults[name]}
        kind, _, path = self.data.rpartition(":") if self.data.startswith("imagefolder:") else ("", "", self.data)
        settings["data"] = f"{kind}:{Path(path).name}" if kind else Path(path).name
        return settings


def has_fast_bf16(device: str = "cpu") -> bool:
    """Whether bf16 matrix products are faster than float32: AMX or AVX-512 bf16 CPUs, GPUs with bf16 units."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def require(condition: bool, sentence: str) -> None:
    """ValueError with the sentence unless the condition holds."""
    if not condition:
        raise ValueError(sentence)
