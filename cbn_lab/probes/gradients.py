"""The stochastic gradient as a random vector: E||g||^2 = ||E g||^2 + tr Cov g, over independent mini-batches.

    found = moments(model, loss_fn, draw(digits, batch_size=128, seed=0), statistics="batch")
    print(found)                     # the three numbers with intervals, the noise scale, what was measured
    found.second, found.variance     # of all parameters, raw; found.scale_free.second; found.layers["0.weight"].raw

Three conventions.

- The expectation is over mini-batches. In train mode a batch norm makes every sample's gradient depend on the batch
  around it, so there are no per-sample gradients to average, and the mini-batch's size is part of the answer.
- Estimates are unbiased (`_estimates`). In particular ||E g||^2 is *not* the squared norm of the mean gradient.
- Scale-free values are those of the gradient with respect to w/||w||, tensor by tensor: squared, the gradient of a
  tensor is multiplied by ||w||^2. They do not change when the weights before a norm are multiplied by a number, the raw
  ones then change by its inverse square. A tensor that is zero (a bias at the start) contributes nothing to them.

Dropout, if any, draws a new mask for each batch: its noise is part of the stochastic gradient.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from cbn_lab import data
from cbn_lab.probes._estimates import Estimate, Moments, Products, estimate, products
from cbn_lab.probes._frozen import STATISTICS, frozen, gradients_of
from cbn_lab.probes._overlap import refuse_overlap, samples

MINIMUM = 50  # batches; with fewer the variance is known to no better than a fifth or so


@dataclass(frozen=True)
class LayerMoments:
    """Of the parameters that one module owns: raw, and times ||w||^2 tensor by tensor."""

    raw: Moments
    scale_free: Moments


@dataclass(frozen=True)
class NoiseScale:
    """The simple gradient noise scale (McCandlish et al. 2018, arXiv:1812.06162, eq. 2.9), in samples.

    B = tr Sigma / ||G||^2 with Sigma the covariance of one sample's gradient. It is taken from batches of b samples as
    b tr Cov_b / ||E g_b||^2: the same number wherever a batch's gradient is the mean of b independent ones, that is
    without batch statistics; with them it belongs to this b. (Batches drawn without replacement from N samples have a
    covariance smaller by (N - b)/(N - 1).) The upper end is infinite where the mean gradient is lost in the noise.
    """

    estimate: Estimate
    batch_size: int
    batches: int
    statistics: str
    confidence: float
    gradient_evaluations: int

    def __str__(self) -> str:
        return (f"Gradient noise scale, measured at batch size {self.batch_size}: {self.estimate} samples "
                f"({100 * self.confidence:g} % interval, {self.batches} mini-batches, {STATISTICS[self.statistics]}).")


@dataclass(frozen=True)
class GradientMoments:
    """What `moments` returns. `layers` has the modules that own parameters, by their path in the model."""

    raw: Moments
    scale_free: Moments
    layers: Mapping[str, LayerMoments]
    batches: int
    batch_size: int
    statistics: str
    confidence: float
    parameters: int
    gradient_evaluations: int

    @property
    def second(self) -> Estimate:
        """E||g||^2, raw, all parameters."""
        return self.raw.second

    @property
    def squared_mean(self) -> Estimate:
        """||E g||^2, raw, all parameters."""
        return self.raw.squared_mean

    @property
    def variance(self) -> Estimate:
        """tr Cov g, raw, all parameters."""
        return self.raw.variance

    @property
    def noise_scale(self) -> NoiseScale:
        """The simple noise scale in samples: batch size times tr Cov / ||E g||^2."""
        r, b = self.raw.noise_to_signal, self.batch_size
        return NoiseScale(Estimate(b * r.value, b * r.standard_error, b * r.low, b * r.high), b, self.batches,
                          self.statistics, self.confidence, self.gradient_evaluations)

    def __str__(self) -> str:
        r, s = self.raw, self.scale_free
        return (f"Gradient of {self.parameters:,} parameters over {self.batches} mini-batches of {self.batch_size}, "
                f"{STATISTICS[self.statistics]}: E||g||^2 = {r.second}, ||E g||^2 = {r.squared_mean}, tr Cov = "
                f"{r.variance} ({100 * self.confidence:g} % intervals, jackknife over batches); scale-free "
                f"{s.second}, {s.squared_mean}, {s.variance}; {self.gradient_evaluations} gradient evaluations.")


def moments(model: nn.Module, loss_fn: Callable, batches: Iterable, *, statistics: str,
            confidence: float = 0.95) -> GradientMoments:
    """E||g||^2, ||E g||^2 and tr Cov g over `batches`, at least 50 independent ones of one size; whole and per layer.

    loss_fn(outputs, labels) -> mean loss of the batch; batches yields (inputs, labels); statistics "batch" (train
    mode) or "running" (eval mode). One gradient a batch; all are held in memory: batches x parameters numbers.

    Raises ValueError for fewer than 50 batches, unequal sizes, batches that share more samples than independent draws
    do, a gradient that is not finite, no trainable parameters, a loss that is cut off from the model, and what `frozen`
    refuses: a loss that is not finite, a batch of one that a norm cannot normalize.
    """
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not named:
        raise ValueError("the model has no parameter that requires a gradient; use requires_grad_(True) on the layers "
                         "that are to be measured")
    gradients, size = _gradients(model, named, loss_fn, batches, statistics)
    raw = {name: products(torch.stack(rows)) for name, rows in gradients.items()}
    free = {name: of.times(float(named[name].detach().double().square().sum())) for name, of in raw.items()}
    layers: dict[str, list[str]] = {}
    for name in named:
        layers.setdefault(name.rpartition(".")[0] or name, []).append(name)
    count = len(next(iter(gradients.values())))
    return GradientMoments(
        _sum(raw, named, confidence), _sum(free, named, confidence),
        {layer: LayerMoments(_sum(raw, names, confidence), _sum(free, names, confidence))
         for layer, names in layers.items()},
        count, size, statistics, confidence, sum(p.numel() for p in named.values()), count)


def noise_scale(model: nn.Module, loss_fn: Callable, batches: Iterable, *, statistics: str,
                confidence: float = 0.95) -> NoiseScale:
    """The simple gradient noise scale, see `NoiseScale`; arguments and errors of `moments`."""
    return moments(model, loss_fn, batches, statistics=statistics, confidence=confidence).noise_scale


def draw(dataset: data.Dataset, *, batch_size: int, count: int = MINIMUM, seed: int = 0,
         dtype: torch.dtype = torch.float32) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """`count` independent mini-batches: each a random subset of the data set, drawn without regard to the others.

    Equal seeds give equal batches. (The batches of one epoch are no substitute: they share no sample, so they are not
    independent; their mean is the full gradient, and ||E g||^2 would come out too small.)
    """
    if not 0 < batch_size <= len(dataset):
        raise ValueError(f"batch_size must lie between 1 and the data set's {len(dataset)} samples, got {batch_size}")
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        rows = torch.randperm(len(dataset), generator=generator)[:batch_size].to(dataset.labels.device)
        yield data.normalize(dataset.images[rows], dataset, dtype), dataset.labels[rows]


def _gradients(model, named, loss_fn, batches, statistics) -> tuple[dict[str, list[torch.Tensor]], int]:
    """(parameter -> one flat gradient a batch, batch size)."""
    rows: dict[str, list[torch.Tensor]] = {name: [] for name in named}
    size, count, seen = None, 0, []
    with frozen(model, statistics=statistics):  # the outer one restores the random state that the masks use up
        for number, batch in enumerate(batches):
            size = _checked_size(batch, number, size)
            if isinstance(batch[0], torch.Tensor):
                seen.append(samples(batch[0]))
            with frozen(model, statistics=statistics) as probe:
                loss = probe.loss(loss_fn, batch)
                found = gradients_of(loss, list(named.values()))
            for (name, kept), gradient in zip(rows.items(), found, strict=True):
                if not torch.isfinite(gradient).all():
                    raise ValueError(f"the gradient of {name} is not finite on batch {number}; look at its inputs, or "
                                     "at a root or a logarithm at 0 in the loss")
                kept.append(gradient.detach().flatten())
            torch.manual_seed(int(torch.randint(2**62, ())))  # the next batch's dropout masks
            count = number + 1
    if count < MINIMUM:
        raise ValueError(f"got {count} batches; the variance needs at least {MINIMUM} independent mini-batches. Draw "
                         f"more, with replacement between batches: gradients.draw(dataset, batch_size=..., count=50)")
    refuse_overlap(seen)
    return rows, size


def _checked_size(batch, number: int, size: int | None) -> int:
    if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
        raise ValueError(f"batch {number} must be a pair (inputs, labels), got {type(batch).__name__}; for batches "
                         "from a Dataset use gradients.draw")
    if size is not None and len(batch[1]) != size:
        raise ValueError(f"batch {number} has {len(batch[1])} samples and those before {size}; all must have one size, "
                         "since the variance depends on it (a DataLoader needs drop_last=True)")
    return len(batch[1])


def _sum(of: Mapping[str, Products], names: Iterable[str], confidence: float) -> Moments:
    first, *others = (of[name] for name in names)
    return estimate(sum(others, start=first), confidence=confidence)
