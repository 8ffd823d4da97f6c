"""Exercises 1.3 and 1.4: the update of the running statistics, and how long they remember."""

import math
from functools import partial

import torch
from torch import Tensor

from cbn_lab.exercises._ex01_forward import case
from cbn_lab.exercises.core import Mutant, Spec, require
from cbn_lab.exercises.tools import close, number


def update_running(running_mean, running_var, x, momentum):
    """Change running_mean and running_var, both [C], in place by the batch x, [N, C] or [N, C, H, W]; return both."""
    raise NotImplementedError


def update_running_solution(running_mean, running_var, x, momentum):
    axes = [axis for axis in range(x.dim()) if axis != 1]
    x = x.detach()
    running_mean.lerp_(x.mean(axes), momentum)
    running_var.lerp_(x.var(axes, correction=1), momentum)
    return running_mean, running_var


def _update(running_mean, running_var, x, momentum, *, new=lambda old, batch, m: (1 - m) * old + m * batch,
            correction=1, stored=lambda var: var, factor=lambda x: 1.0, detach=True):
    axes = [axis for axis in range(x.dim()) if axis != 1]
    x = x.detach() if detach else x
    running_mean.copy_(new(running_mean, x.mean(axes), momentum))
    running_var.copy_(new(running_var, factor(x) * stored(x.var(axes, correction=correction)), momentum))
    return running_mean, running_var


def _rebound(running_mean, running_var, x, momentum):
    return update_running_solution(running_mean.clone(), running_var.clone(), x, momentum)


def _images_for_values(x):
    """The factor that makes of the biased variance one with N - 1, where N counts images and not values."""
    n = len(x)
    return n / max(n - 1, 1)


def _mean_alone(running_mean, running_var, x, momentum):
    return update_running_solution(running_mean, running_var.clone(), x, momentum)[0], running_var


def _one_for_all(running_mean, running_var, x, momentum):
    running_mean.lerp_(x.mean().expand_as(running_mean), momentum)
    running_var.lerp_(x.var().expand_as(running_var), momentum)
    return running_mean, running_var


def _around_the_running_mean(running_mean, running_var, x, momentum):
    values = x.movedim(1, -1).reshape(-1, x.shape[1])
    running_mean.lerp_(values.mean(0), momentum)
    running_var.lerp_((values - running_mean).square().sum(0) / (len(values) - 1), momentum)
    return running_mean, running_var


_UPDATE = {
    "biased variance": (partial(_update, correction=0),
                        "running_var receives the biased variance, over n. Eval mode wants an estimate of the "
                        "variance of all images: the unbiased one, over n - 1"),
    "momentum reversed": (partial(_update, new=lambda old, batch, m: m * old + (1 - m) * batch),
                          "momentum is the weight of the batch: new = (1 - momentum) * old + momentum * batch. You "
                          "have it the other way round, as in SGD or Keras"),
    "replaced": (partial(_update, new=lambda old, batch, m: batch),
                 "the old values are forgotten at once: momentum is not used"),
    "added": (partial(_update, new=lambda old, batch, m: old + m * batch),
              "the old value is kept whole and momentum * batch is added, so the statistics grow with every batch: "
              "the old one weighs 1 - momentum"),
    "standard deviation": (partial(_update, stored=torch.sqrt),
                           "running_var receives the standard deviation; it holds a variance"),
    "number of images": (partial(_update, correction=0, factor=_images_for_values),
                         "your correction counts images: n is the number of values per channel, N H W for images"),
    "factor upside down": (partial(_update, correction=0, factor=lambda x: (_values(x) - 1) / _values(x)),
                           "the correction is upside down: the unbiased variance is n / (n - 1) times the biased one"),
    "variance forgotten": (_mean_alone, "running_var is as before: it follows the batch too"),
    "rebound": (_rebound, "the tensors that you were given still hold the old values: change them in place (`lerp_`, "
                          "`copy_`, `mul_` and `add_`), do not make new ones"),
    "graph kept": (partial(_update, detach=False),
                   "the running statistics became part of the autograd graph, which then grows with every batch: use "
                   "`x.detach()` or `torch.no_grad()`"),
}


def _values(x: Tensor) -> int:
    return x.numel() // x.shape[1]


_ALSO = {  # the message -> an answer that makes the mistake; tried in tests/test_ex01.py
    "`x.var` divides by n - 1 already; with the factor n / (n - 1) on top of it the correction counts twice":
        partial(_update, factor=lambda x: _values(x) / (_values(x) - 1)),
    "all channels share one mean and one variance: leave axis 1 out of the average": _one_for_all,
    "your variance is taken around the running mean; it is the variance of the batch, around the batch's own mean":
        _around_the_running_mean,
}
_UPDATE_CASES = (((4, 3, 3, 2), 0.3), ((2, 3), 0.25), ((8, 1), 0.1), ((1, 3, 2, 2), 0.6), ((3, 3), 1.0), ((6, 2), 0.0))


def check_update(student) -> None:
    for seed, (shape, momentum) in enumerate(_UPDATE_CASES):
        x = case(shape, seed=seed)[0]
        where = f"x of shape {list(shape)}, momentum = {momentum}"
        given, returned = _updated(student, x, momentum)
        wanted = _updated(update_running_solution, x, momentum)[0]
        wrong = {message: _updated(answer, x, momentum)[0] for answer, message in _UPDATE.values()}
        wrong |= {message: _updated(answer, x, momentum)[0] for message, answer in _ALSO.items()}
        require(isinstance(returned, (tuple, list)) and len(returned) == 2,
                "your function returns one thing, or not two; expected (running_mean, running_var)")
        require(returned[0] is not given[1], "running_mean and running_var are returned in the wrong order")
        for part, name in enumerate(("running_mean", "running_var")):
            mistakes = {message: values[part] for message, values in wrong.items()}
            close(given[part], wanted[part], where, what=name, mistakes=mistakes)
            require(returned[part] is given[part], f"{name} is right, but what you return in its place is another "
                                                   "object: return the tensor that you were given")
    x = case((8, 3))[0].requires_grad_()
    given, _ = _updated(student, x, 0.1)
    require(not any(tensor.requires_grad for tensor in given), _UPDATE["graph kept"][1])
    require(x.requires_grad, "your function changes x: `detach()` makes a view that shares its values, `detach_()` "
                             "changes x itself")


def _updated(function, x, momentum):
    """(the two tensors after the call, what was returned)."""
    mean, var = (torch.linspace(low, high, x.shape[1], dtype=x.dtype) for low, high in ((0.2, 1.7), (0.8, 2.3)))
    before, places = x.detach().clone(), [tensor.data_ptr() for tensor in (mean, var)]
    returned = function(mean, var, x, momentum)
    require(torch.equal(x.detach(), before), "your function changes x in place; only the two running statistics change")
    require(places == [tensor.data_ptr() for tensor in (mean, var)],
            "the running statistics moved to another place in memory (`.data = ...`, `set_`); whoever shares their "
            "values keeps the old ones. Write into the tensors that are there (`lerp_`, `copy_`)")
    return (mean, var), returned


UPDATE = Spec(
    id="1.3", title="the update of the running statistics",
    task="Move `running_mean` and `running_var` towards the statistics of the batch, in place, with torch's convention "
         "for `momentum`, and return both. Which variance goes in?",
    stub=update_running, reference=update_running_solution, check=check_update,
    hints=("`new = (1 - momentum) * old + momentum * batch`, for both. One call does that in place: `old.lerp_(batch, "
           "momentum)`.",
           "The variance that is stored is the unbiased one: `x.var(axes, correction=1)`, with all values of a channel "
           "counted, not images. And nothing of the batch's autograd graph belongs into it."),
    mutants={name: Mutant(answer, message) for name, (answer, message) in _UPDATE.items()},
    why="In place, because others hold on to these two tensors: DistributedDataParallel broadcasts them, an "
        "exponential average copies from them, a captured graph reads their address.")


def check_half_life(student) -> None:
    value = number(student)
    exact = math.log(0.5) / math.log(0.9)
    named = {1: "that would be the answer if the old value weighed 0.1 and the batch 0.9: torch's momentum is the "
                "weight of the update",
             2: "that is how many would do with 1 / (1 + k): the weight of the old value is multiplied by the same "
                "factor at every batch",
             5: "0.1 times 5 is one half, but the weights are multiplied, not subtracted: after 5 batches 0.9^5 = 0.59 "
                "of the old value is left",
             6: "rounded down: after 6 batches 0.9^6 = 0.53 is left, a little more than half",
             8: "one too many: half is passed already one batch earlier",
             10: "1 / momentum = 10 is the time constant: then 0.9^10 = 0.35 is left, about 1 / e",
             22: "after 22 batches 0.9^22 = 0.1 is left; the question is about one half"}
    require(value >= 0, "expected a number of batches, so none below 0")
    if abs(value - exact) < 0.05:
        require(False, "where the curve crosses one half, yes. The question is for a number of batches: a whole one, "
                       "after which *at most* half is left")
    require(value not in named, named.get(value, ""))
    require(value == int(value), f"expected a whole number of batches, got {value:g}")
    require(value == 7, f"after {value:g} batches 0.9^{value:g} = {0.9**min(value, 1e4):.3g} of the old value "
                        "is left; look for the first whole number for which that is at most one half")


HALF_LIFE = Spec(
    id="1.4", title="how long the running mean remembers",
    task="Take the running mean at some moment, with `momentum=0.1`. How many batches does it take until the weight of "
         "that old value is at most one half? A whole number.",
    stub=None, reference=7, check=check_half_life,
    hints=("After one batch the old value weighs 0.9. After two?", "Solve 0.9^k = 1/2 with logarithms, and round up."),
    mutants={"convention reversed": Mutant(1, "weight of the update"),
             "linear": Mutant(5, "multiplied, not subtracted"),
             "rounded down": Mutant(6, "rounded down"),
             "not rounded": Mutant(6.58, "whole one"),
             "one too many": Mutant(8, "one too many"),
             "time constant": Mutant(10, "time constant"),
             "a tenth": Mutant(22, "about one half"),
             "per cent": Mutant(50, "look for the first whole number")},
    why="0.9^7 = 0.478. So after an epoch of 11 batches, as on our digits, a running mean still consists of its "
        "starting value 0 to 31 %: eval mode after one epoch is not yet what it will be.")
