"""Notebook 07: a gap between two arms over seeds, the growth of a gradient, a mini-batch of two, a placement."""

import numpy as np

from cbn_lab.exercises import ex07_placement
from cbn_lab.exercises.core import Mutant, Spec, Wrong, require
from cbn_lab.exercises.tools import array, call, close


def gap(ours, theirs):
    """(mean, standard error) of theirs - ours over the seeds that both have; ours, theirs: {seed: accuracy in %}."""
    raise NotImplementedError


def _gap(ours, theirs):
    differences = [theirs[seed] - ours[seed] for seed in sorted(ours) if seed in theirs]
    return float(np.mean(differences)), float(np.std(differences, ddof=1) / len(differences) ** 0.5)


def _paired(statistics):
    """A mistake that pairs the seeds rightly and does something wrong with the differences."""
    def wrong(ours, theirs):
        return statistics(np.array([theirs[seed] - ours[seed] for seed in sorted(ours) if seed in theirs]))

    return wrong


def _error(differences, ddof=1):
    return float(np.std(differences, ddof=ddof) / len(differences) ** 0.5)


def _by_position(ours, theirs):
    pairs = list(zip(ours.values(), theirs.values(), strict=False))
    return _paired(lambda d: (d.mean(), _error(d)))({i: a for i, (a, _) in enumerate(pairs)},
                                                    {i: b for i, (_, b) in enumerate(pairs)})


def _unpaired(ours, theirs):
    a, b = np.array([*ours.values()]), np.array([*theirs.values()])
    return b.mean() - a.mean(), (a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)) ** 0.5


_GAPS = {
    "by position": ("the values are paired in the order in which they stand; pair them by their seeds", _by_position),
    "all seeds": ("two means over all runs are compared; take the difference for each seed that both have, and the "
                  "mean of these differences", _unpaired),
    "ours minus theirs": ("the sign is wrong: the gap is theirs - ours", _paired(lambda d: (-d.mean(), _error(d)))),
    "population deviation": ("the standard deviation of the differences divides by n; these are a sample, so divide "
                             "by n - 1", _paired(lambda d: (d.mean(), _error(d, 0)))),
    "standard deviation": ("the second number is the standard deviation; the standard *error* is that over the root "
                           "of n", _paired(lambda d: (d.mean(), d.std(ddof=1)))),
    "over n": ("the standard deviation is divided by n; the standard error divides it by the root of n",
               _paired(lambda d: (d.mean(), d.std(ddof=1) / len(d)))),
    "variance": ("the second number is the square of the standard error",
                 _paired(lambda d: (d.mean(), _error(d) ** 2))),
    "absolute": ("the differences lose their signs; a seed where ours is ahead counts against the gap",
                 _paired(lambda d: (abs(d).mean(), _error(abs(d))))),
    "median": ("this is the median; take the mean", _paired(lambda d: (np.median(d), _error(d)))),
    "fraction": ("the numbers are in % already; nothing is to be divided by 100",
                 _paired(lambda d: (d.mean() / 100, _error(d) / 100))),
    "exchanged": ("the two numbers are exchanged; the mean comes first", _paired(lambda d: (_error(d), d.mean()))),
    "all of ours counted": ("n counts all seeds of ours; it is the number of differences",
                            lambda ours, theirs: _paired(lambda d: (d.mean(), np.std(d, ddof=1) / len(ours) ** 0.5))(
                                ours, theirs)),
}


def _check_gap(student):
    cases = (({0: 90.3, 1: 92.9, 2: 91.0, 3: 94.6}, {3: 95.1, 1: 95.8, 0: 96.3, 2: 90.0}),
             ({5: 60.0, 7: 61.0, 9: 70.0, 4: 10.0}, {9: 69.0, 5: 64.5, 7: 62.0, 8: 99.0}))
    for ours, theirs in cases:
        where = f"ours = {ours}, theirs = {theirs}"
        try:
            found = call(student, ours, theirs)
        except KeyError as error:
            raise Wrong(f"your function looks for a seed that only one of the two has ({error.args[0]}); use the "
                        "seeds that both have") from None
        require(array(found).shape == (2,), f"expected two numbers, mean and standard error, got {found!r:.60}")
        mistakes = {said: wrong(ours, theirs) for said, wrong in _GAPS.values()}
        close(found, _gap(ours, theirs), where, mistakes=mistakes)


GAP = Spec(
    id="7.1", title="a gap, and how well it is known",
    task="Two arms were trained with several seeds. The same seed gives both arms the same weights and the same order "
         "of the images, so compare them seed by seed. Write the mean of the differences and its standard error.",
    stub=gap, reference=_gap, check=_check_gap,
    hints=("Make a list of differences first: one for each seed that occurs in both dictionaries.",
           "The standard error of a mean of $n$ independent numbers is $\\hat\\sigma/\\sqrt n$, where $\\hat\\sigma^2$ "
           "divides by $n - 1$.", "`numpy.std(..., ddof=1)` divides by $n - 1$."),
    mutants={name: Mutant(wrong, says=said) for name, (said, wrong) in _GAPS.items()},
    why="What the seed does to both arms alike cancels in the difference. How much that is, only the runs tell: it can "
        "be little. With three seeds the standard error itself is only known to about 50 %: read it as a size, not as "
        "a verdict.")


def growth_per_layer(squared):
    """The factor per layer by which the squared gradient grows on its way down.

    squared: the squared gradient at each boundary between layers, from the input (first) to the output (last).
    """
    raise NotImplementedError


def _growth_per_layer(squared):
    layers = len(squared) - 1
    return (squared[0] / squared[-1]) ** (1 / layers)


_GROWTHS = {
    "boundaries counted": ("the number of boundaries is taken for that of layers: n boundaries have n - 1 layers "
                           "between them", lambda s: (s[0] / s[-1]) ** (1 / len(s))),
    "upwards": ("this is the factor on the way up; the gradient travels down, from the last boundary to the first",
                lambda s: (s[-1] / s[0]) ** (1 / (len(s) - 1))),
    "arithmetic mean": ("the factors of the layers are averaged; factors multiply, so their geometric mean is meant",
                        lambda s: float(np.mean(np.array(s[:-1]) / np.array(s[1:])))),
    "median factor": ("this is the median of the layers' factors; their product has to come out right, so take the "
                      "geometric mean", lambda s: float(np.median(np.array(s[:-1]) / np.array(s[1:])))),
    "total": ("this is the factor of the whole net; take the root that belongs to one layer", lambda s: s[0] / s[-1]),
    "divided total": ("the factor of the whole net is divided by the number of layers; take a root instead",
                      lambda s: s[0] / s[-1] / (len(s) - 1)),
    "norm": ("this is the factor of the gradient's norm; asked is that of its square",
             lambda s: (s[0] / s[-1]) ** (0.5 / (len(s) - 1))),
    "squared again": ("the numbers are squared once more; they are squares already",
                      lambda s: (s[0] / s[-1]) ** (2 / (len(s) - 1))),
    "logarithm": ("this is the logarithm of the factor", lambda s: float(np.log(s[0] / s[-1])) / (len(s) - 1)),
    "difference": ("this is a mean difference; asked is a factor", lambda s: (s[0] - s[-1]) / (len(s) - 1)),
    "layer by layer": ("these are the factors of the single layers; asked is one number, their geometric mean",
                       lambda s: np.array(s[:-1]) / np.array(s[1:])),
    "largest factor": ("this is the largest of the layers' factors; their product has to come out right, so take the "
                       "geometric mean", lambda s: float(np.max(np.array(s[:-1]) / np.array(s[1:])))),
}


def _check_growth(student):
    for squared in ([12.0, 5.0, 2.5, 1.5], [0.02, 0.5, 0.4, 3.0, 2.0], [3.0, 0.7]):
        mistakes = {said: wrong(squared) for said, wrong in _GROWTHS.values()}
        close(call(student, squared), _growth_per_layer(squared), f"squared = {squared}", mistakes=mistakes)


GROWTH = Spec(
    id="7.2", title="the growth of a gradient, per layer",
    task="The squared gradient was measured at every boundary between the layers of a net, from the input to the "
         "output. Write the factor per layer by which it grows on its way *down*.",
    stub=growth_per_layer, reference=_growth_per_layer, check=_check_growth,
    hints=("How many layers lie between the first and the last boundary?",
           "The factors of the layers multiply to the factor of the whole net. So one layer has a root of it.",
           "The gradient starts at the last entry and ends at the first."),
    mutants={name: Mutant(wrong, says=said) for name, (said, wrong) in _GROWTHS.items()},
    why="In the geometric mean all inner boundaries cancel: $\\prod_l s_{l-1}/s_l = s_0/s_n$. A factor of 1.5 looks "
        "harmless. Over 30 layers it is $1.5^{30}$, almost 200,000.")


def batch_of_two(z, eps=1e-5):
    """BN's output (train mode, gamma 1, beta 0) for a mini-batch of two: z is an array [2, C], so is the result."""
    raise NotImplementedError


def _batch_of_two(z, eps=1e-5):
    d = (z[0] - z[1]) / 2
    first = d / np.sqrt(d**2 + eps)
    return np.stack([first, -first])


def _pair(first):
    """A mistake that gives `first(half the difference, eps)` to the first sample and its negative to the second."""
    def wrong(z, eps=1e-5):
        value = first((z[0] - z[1]) / 2, eps)
        return np.stack([value, -value])

    return wrong


def _standardized(axis):
    def wrong(z, eps=1e-5):
        mean, var = z.mean(axis, keepdims=True), z.var(axis, keepdims=True)
        return (z - mean) / np.sqrt(var + eps)

    return wrong


_RTOL = 1e-5  # who computes in torch's float32 is right
_TWOS = {
    "eps not used": ("eps is fixed at 1e-5; use the one that is given", lambda z, eps=1e-5: _batch_of_two(z)),
    "unbiased variance": ("the variance divides by n - 1 = 1; BN normalizes with 1/n, here 1/2",
                          _pair(lambda d, e: d / np.sqrt(2 * d**2 + e))),
    "signs alone": ("eps is missing: a difference that is small against it does not reach 1",
                    _pair(lambda d, e: np.sign(d))),
    "eps outside the root": ("eps is added to the standard deviation; it belongs to the variance, inside the root",
                             _pair(lambda d, e: d / (np.abs(d) + e))),
    "whole difference": ("each sample is *half* the difference away from the mean",
                         _pair(lambda d, e: 2 * d / np.sqrt(4 * d**2 + e))),
    "exchanged": ("the two rows are exchanged: the larger of the two is the positive one",
                  _pair(lambda d, e: -d / np.sqrt(d**2 + e))),
    "absolute difference": ("the sign is lost: where the second sample is larger, the first one is negative",
                            _pair(lambda d, e: np.abs(d) / np.sqrt(d**2 + e))),
    "only centred": ("the mean is subtracted, but nothing divides by the standard deviation", _pair(lambda d, e: d)),
    "by the variance": ("it is divided by the variance; divide by its root", _pair(lambda d, e: d / (d**2 + e))),
    "not centred": ("the mean is not subtracted",
                    lambda z, eps=1e-5: z / np.sqrt(((z[0] - z[1]) / 2) ** 2 + eps)),
    "over channels": ("mean and variance run over the channels; BN takes them over the batch",
                      _standardized(1)),
    "over everything": ("one mean and one variance for all channels; BN has one of each per channel",
                        _standardized((0, 1))),
}


def _check_two(student):
    cases = (([[3.0, -1.0, 0.5], [1.0, 4.0, 0.507]], 1e-5), ([[2.0, 0.1], [-1.0, 7.0]], 0.5))
    for rows, eps in cases:
        z = np.array(rows)
        mistakes = {said: wrong(z, eps) for said, wrong in _TWOS.values()}
        close(call(student, z, eps), _batch_of_two(z, eps), f"z = {rows}, eps = {eps:g}", mistakes=mistakes, rtol=_RTOL)
    z = np.array(cases[0][0])
    close(call(student, z), _batch_of_two(z), "eps not given", what="with the default eps = 1e-5 the result",
          rtol=_RTOL)


TWO = Spec(
    id="7.3", title="a mini-batch of two",
    task="Write what BN computes for a mini-batch of two, per channel, in terms of half the difference of the two "
         "samples. Do not forget $\\varepsilon$.",
    stub=batch_of_two, reference=_batch_of_two, check=_check_two,
    hints=("The mean of two numbers lies in the middle. How far is each from it?",
           "With $d$ half the difference, the two are at $+d$ and $-d$. What is their variance (dividing by 2)?",
           "The first row is $d/\\sqrt{d^2+\\varepsilon}$."),
    mutants={name: Mutant(wrong, says=said) for name, (said, wrong) in _TWOS.items()},
    why="$\\hat z = \\pm d/\\sqrt{d^2+\\varepsilon}$, which is $\\pm1$ unless $d$ is as small as $\\sqrt\\varepsilon$. "
        "How far the two samples are apart is lost; only which one is larger is left. In eval mode the running "
        "statistics are used, and that information is there again. So the net is tested as another function than "
        "the one that it was trained as. (A convolution averages over pixels too, so it has more than two values per "
        "channel, unless its map is 1 x 1.)")


EXERCISES = (GAP, GROWTH, TWO, ex07_placement.PLACEMENT)
