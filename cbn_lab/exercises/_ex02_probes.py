"""Exercises 2.1 and 2.3: two probes, internal covariate shift and effective smoothness, over any gradient function."""

import itertools

import torch

from cbn_lab.exercises.core import Mutant, Spec
from cbn_lab.exercises.tools import call, close


def covariate_shift(gradient, layers, step):
    """||G'_i - G_i|| for every layer, first to last.

    layers: list of tensors W_1 ... W_k; gradient(layers): list of the gradients of one mini-batch's loss, one a layer.
    """
    raise NotImplementedError


def _covariate_shift(gradient, layers, step):
    start = gradient(layers)
    moved = [w - step * g for w, g in zip(layers, start, strict=True)]
    shifts = []
    for i in range(len(layers)):
        after = gradient([*moved[:i], *layers[i:]])  # below layer i: moved; layer i and above: as they were
        shifts.append((after[i] - start[i]).norm())
    return shifts


def _of(arrange=lambda i, moved, layers: [*moved[:i], *layers[i:]], measure=lambda a, b: (b - a).norm(),
        move=lambda w, g, step: w - step * g):
    """The probe with one of its three parts replaced."""
    def answer(gradient, layers, step):
        start = gradient(layers)
        moved = [move(w, g, step) for w, g in zip(layers, start, strict=True)]
        return [measure(start[i], gradient(arrange(i, moved, layers))[i]) for i in range(len(layers))]

    return answer


def _one_after_the_other(gradient, layers, step):
    start, weights, shifts = gradient(layers), list(layers), []
    for i in range(len(layers)):
        now = gradient(weights)[i]
        shifts.append((now - start[i]).norm())
        weights[i] = weights[i] - step * now
    return shifts


_SHIFT = {
    "all moved": ("every layer was moved before the gradient was taken again; the definition moves only the layers "
                  "*below* layer i", _of(arrange=lambda i, moved, layers: moved)),
    "own layer moved": ("layer i itself was moved too; only the layers below it move",
                        _of(arrange=lambda i, moved, layers: [*moved[:i + 1], *layers[i + 1:]])),
    "above moved": ("the layers above layer i were moved; the definition is about those below it",
                    _of(arrange=lambda i, moved, layers: [*layers[:i + 1], *moved[i + 1:]])),
    "only one below": ("only the layer directly below was moved; all layers below move",
                       _of(arrange=lambda i, moved, layers: [*layers[:max(i - 1, 0)], *moved[max(i - 1, 0):i],
                                                             *layers[i:]])),
    "ascent": ("the layers went up the gradient; a step of gradient descent subtracts it",
               _of(move=lambda w, g, step: w + step * g)),
    "step forgotten": ("the layers moved by the whole gradient; multiply it by the step",
                       _of(move=lambda w, g, step: w - g)),
    "one after the other": ("the layers took their steps one after the other, with new gradients; all steps use the "
                            "gradients at the start", _one_after_the_other),
    "squared": ("this is the squared norm of the difference; the definition takes the norm",
                _of(measure=lambda a, b: (b - a).square().sum())),
    "difference of norms": ("this subtracts two norms; take the norm of the difference of the two gradients",
                            _of(measure=lambda a, b: (b.norm() - a.norm()).abs())),
    "relative": ("this is divided by the norm of G_i; the definition does not divide",
                 _of(measure=lambda a, b: (b - a).norm() / a.norm())),
    "cosine": ("this is the cosine of the angle; asked for is the norm of the difference",
               _of(measure=lambda a, b: (a * b).sum() / (a.norm() * b.norm()))),
    "without the first": ("the first layer is missing; it has no layer below it, and its shift is 0",
                          lambda gradient, layers, step: _covariate_shift(gradient, layers, step)[1:]),
}

MORE_SHIFT = {
    "unit direction": ("each gradient was scaled to length 1 before the step; a layer moves by step times its gradient",
                       _of(move=lambda w, g, step: w - step * g / g.norm())),
    "divided by the step": ("this is divided by the step; the definition does not divide by anything",
                            lambda g, layers, step: [d / step for d in _covariate_shift(g, layers, step)]),
    "root mean square": ("this is the root of a mean over the entries; the norm is the root of their sum",
                         _of(measure=lambda a, b: (b - a).square().mean().sqrt())),
    "spectral norm": ("this is the largest singular value of the difference; take the root of the sum of all squares",
                      _of(measure=lambda a, b: torch.linalg.matrix_norm(b - a, 2))),
}
"""More mistakes that the check names, beyond the mutants: name -> (message, answer)."""


def _net(sizes, seed):
    """(layers, gradient) of a tanh net on a fixed mini-batch, in float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    layers = [normal(o, i) / i**0.5 for i, o in zip(sizes, sizes[1:], strict=False)]
    x, y = normal(6, sizes[0]), normal(6, sizes[-1])

    def gradient(weights):
        weights = [w.detach().clone().requires_grad_() for w in weights]
        with torch.enable_grad():
            h = x
            for w in weights:
                h = torch.tanh(h @ w.T)
            return list(torch.autograd.grad((h - y).square().mean(), weights))

    return layers, gradient


def _check_shift(student):
    cases = (((3, 5, 4, 6, 2), 0.7), ((2, 3, 3, 2), 0.05), ((4, 2, 2), 3.0), ((3, 2), 1.5))
    for seed, (sizes, step) in enumerate(cases):
        layers, gradient = _net(sizes, seed)
        known = _SHIFT | MORE_SHIFT if len(sizes) > 4 else {}
        mistakes = {said: wrong(gradient, layers, step) for said, wrong in known.values()}
        close(call(student, gradient, layers, step), _covariate_shift(gradient, layers, step),
              f"{len(layers)} layers and step = {step}", what="the list of shifts", mistakes=mistakes)


SHIFT = Spec(
    id="2.1", title="internal covariate shift, measured",
    task="Write the probe of Definition 2.1 for any list of layers: how far does the gradient of layer $i$ move when "
         "the layers *below* it take one step of gradient descent, on the same mini-batch?",
    stub=covariate_shift, reference=_covariate_shift, check=_check_shift,
    hints=("Call `gradient` once at the start: it gives every $G_i$. Then once for each layer, with a list in which "
           "some layers have moved.",
           "All layers take their step with the gradients at the start. For layer i, use the moved ones before "
           "position i and the old ones from i on.",
           "`after = gradient([*moved[:i], *layers[i:]])`; its entry i is $G'_i$."),
    mutants={name: Mutant(wrong, says=said) for name, (said, wrong) in _SHIFT.items()},
    why="One gradient at the start and one for each layer. For the first layer nothing lies below, so its shift is 0. "
        "The weights are never changed in place: a probe leaves the net as it was. `cbn_lab.probes.shift.internal` is "
        "the same for a model, with the angle as well.")


def smoothness(gradient, w, steps):
    """max over the steps of ||g(w') - g(w)|| / ||w' - w||, w' = w - step * g(w).

    gradient(w): the gradient of one mini-batch's loss, of the shape of w; steps: list of positive numbers.
    """
    raise NotImplementedError


def _smoothness(gradient, w, steps):
    g = gradient(w)
    ratios = []
    for step in steps:
        moved = w - step * g
        ratios.append((gradient(moved) - g).norm() / (moved - w).norm())
    return max(ratios)


def _ratios(ratio, choose=max, move=lambda w, g, s: w - s * g):
    """The probe with its ratio, its choice among the steps or its path replaced; ratio(g' - g, w' - w, g', g, s)."""
    def answer(gradient, w, steps):
        g, found = gradient(w), []
        for s in steps:
            end = move(w, g, s)
            found.append(ratio(gradient(end) - g, end - w, gradient(end), g, s))
        return choose(found)

    return answer


def _right(change, way, *_):
    return change.norm() / way.norm()


def _consecutive(gradient, w, steps):
    points = [w, *(w - s * gradient(w) for s in steps)]
    return max((gradient(b) - gradient(a)).norm() / (b - a).norm() for a, b in zip(points, points[1:], strict=False))


def _downhill(gradient, w, steps):
    found = []
    for s in steps:
        g = gradient(w)
        end = w - s * g
        found.append((gradient(end) - g).norm() / (end - w).norm())
        w = end
    return max(found)


def _all_pairs(gradient, w, steps):
    g = gradient(w)
    points = [w, *(w - s * g for s in steps)]
    return max((gradient(b) - gradient(a)).norm() / (b - a).norm() for a, b in itertools.combinations(points, 2))


def _two_largest(gradient, w, steps):
    g = gradient(w)
    return max((gradient(w - s * g) - g).norm() for s in steps) / (max(steps) * g.norm())


_SMOOTH = {
    "not divided": ("the division is missing: this is the gradient predictiveness, not a smoothness",
                    _ratios(lambda change, way, *_: change.norm())),
    "divided by the step": ("this divides by the step; the distance is the step times the length of the gradient",
                            _ratios(lambda change, way, end, g, s: change.norm() / s)),
    "relative change": ("this divides by the length of the gradient; divide by the distance between w' and w",
                        _ratios(lambda change, way, end, g, s: change.norm() / g.norm())),
    "mean": ("this is the mean over the steps; take the largest", _ratios(_right, lambda r: sum(r) / len(r))),
    "smallest": ("this is the smallest ratio; take the largest", _ratios(_right, min)),
    "last": ("this uses the last step alone; take the largest ratio over all of them",
             _ratios(_right, lambda r: r[-1])),
    "consecutive": ("this compares consecutive points of the line; compare each with the start w", _consecutive),
    "ascent": ("this goes up the gradient; w' is w - step * g(w)", _ratios(_right, move=lambda w, g, s: w + s * g)),
    "unit direction": ("the gradient was scaled to length 1 before the step; go by step * g(w)",
                       _ratios(_right, move=lambda w, g, s: w - s * g / g.norm())),
    "squared": ("this is a ratio of squared norms; take the norms",
                _ratios(lambda change, way, *_: change.square().sum() / way.square().sum())),
    "difference of norms": ("this subtracts two norms; take the norm of the difference of the gradients",
                            _ratios(lambda change, way, end, g, s: (end.norm() - g.norm()).abs() / way.norm())),
    "largest entry": ("this uses the largest entry of each vector; use the Euclidean norm",
                      _ratios(lambda change, way, *_: change.abs().max() / way.abs().max())),
}

MORE_SMOOTH = {
    "first": ("this uses the first step alone; take the largest ratio over all of them",
              _ratios(_right, lambda r: r[0])),
    "shortest": ("this uses the shortest step alone; take the largest ratio over all of them",
                 lambda gradient, w, steps: _smoothness(gradient, w, [min(steps)])),
    "longest": ("this uses the longest step alone; take the largest *ratio* over all of them",
                lambda gradient, w, steps: _smoothness(gradient, w, [max(steps)])),
    "two largest": ("this divides the largest change by the largest distance; divide first, then take the largest",
                    _two_largest),
    "walks on": ("each step starts where the one before it ended; all of them start at w", _downhill),
    "all pairs": ("this compares all points of the line with each other; compare each with the start w", _all_pairs),
}


def _bumpy(shape, seed):
    """(w, gradient) of a loss whose curvature rises and falls along a line."""
    generator = torch.Generator().manual_seed(seed)
    n = torch.Size(shape).numel()
    a = torch.randn(n, n, generator=generator, dtype=torch.float64)
    a = a @ a.T / n

    def gradient(w):
        v = w.flatten()
        return (a @ v + 2 * torch.cos(3 * v) + 0.1 * v**3).reshape(shape)

    return torch.randn(shape, generator=generator, dtype=torch.float64), gradient


def _check_smoothness(student):
    # In the first case all mistakes give different values; in the second case the first step has the largest ratio.
    for shape, steps, seed in (((5,), [0.3, 0.05, 0.6, 0.15, 0.45, 0.22], 1536), ((5,), [0.15, 0.6, 0.45], 82),
                               ((2, 3), [0.4, 0.9, 0.2], 3), ((4,), [0.5], 4), ((3, 2, 2), [0.01, 0.02, 0.7, 0.3], 1)):
        w, gradient = _bumpy(shape, seed)
        known = _SMOOTH | MORE_SMOOTH if len(steps) > 4 else {}
        mistakes = {said: wrong(gradient, w, steps) for said, wrong in known.values()}
        close(call(student, gradient, w, steps), _smoothness(gradient, w, steps), f"steps {steps}, w {list(shape)}",
              mistakes=mistakes)


SMOOTHNESS = Spec(
    id="2.3", title="effective smoothness along the gradient",
    task="Write Santurkar's probe for the curvature: the largest change of the gradient per distance, over the given "
         "steps down the gradient.",
    stub=smoothness, reference=_smoothness, check=_check_smoothness,
    hints=("One gradient at w, one at the end of each step. Every end is compared with the start.",
           "The distance between w' and w is `step * g.norm()`.",
           "Collect `(gradient(w - step * g) - g).norm() / (step * g.norm())` and return the largest."),
    mutants={name: Mutant(wrong, says=said) for name, (said, wrong) in _SMOOTH.items()},
    why="If the gradient is Lipschitz with constant $L$, every such ratio is at most $L$. So the probe is a *lower "
        "bound* of $L$, on one line. Without the division it would mostly say how long the gradient is.")
