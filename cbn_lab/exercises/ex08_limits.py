"""Exercise 8.3: the least time that layers can take, from their operations and the maps that they move."""

from cbn_lab.exercises.core import Mutant, Spec, require
from cbn_lab.exercises.tools import call, close, number, same


def least_seconds(layers, values, peak, bandwidth):
    """The least time in seconds of layers that run one after the other.

    layers: for each (operations per value, maps moved); values: how many one map has, each of 2 bytes; peak in
    operations per second; bandwidth in bytes per second.
    """
    raise NotImplementedError


def _least_seconds(layers, values, peak, bandwidth):
    return sum(max(values * operations / peak, 2 * values * maps / bandwidth) for operations, maps in layers)


def _parts(layers, values, peak, bandwidth, size=2):
    """Seconds of arithmetic and of memory, layer by layer."""
    return [(values * operations / peak, size * values * maps / bandwidth) for operations, maps in layers]


_LIMITS = {
    "both added": ("arithmetic and memory are added; at best they overlap, and a layer takes the longer of the two",
                   lambda *given: sum(a + m for a, m in _parts(*given))),
    "the shorter": ("this takes the shorter of the two times; a layer is done when both are",
                    lambda *given: sum(min(pair) for pair in _parts(*given))),
    "operations alone": ("the bytes are left out", lambda *given: sum(a for a, _ in _parts(*given))),
    "bytes alone": ("the operations are left out", lambda *given: sum(m for _, m in _parts(*given))),
    "layers overlap": ("the maximum is taken of the sums, as if the arithmetic of one layer overlapped with the memory "
                       "of another; they run one after the other, so take the maximum in each layer, then add up",
                       lambda *given: max(map(sum, zip(*_parts(*given), strict=True)))),
    "the longest layer": ("this is the longest layer alone; they run one after the other, so add them up",
                          lambda *given: max(max(pair) for pair in _parts(*given))),
    "one byte": ("a value is counted as one byte; in bf16 it has 2",
                 lambda *given: sum(max(pair) for pair in _parts(*given, 1))),
    "values in the bytes left out": ("the bytes are those of one value of a map; it has `values` of them",
                                     lambda layers, values, p, w: sum(max(values * o / p, 2 * m / w)
                                                                      for o, m in layers)),
    "values in the operations left out": ("the operations are those of one value of a map; it has `values` of them",
                                          lambda layers, values, p, w: sum(max(o / p, 2 * values * m / w)
                                                                           for o, m in layers)),
    "one value": ("this is the time for one value of a map; it has `values` of them",
                  lambda layers, values, *machine: sum(max(pair) for pair in _parts(layers, 1, *machine))),
    "upside down": ("operations per second are divided by operations; seconds are operations over operations per "
                    "second, and bytes over bytes per second",
                    lambda *given: sum(max(1 / a, 1 / m) for a, m in _parts(*given) if a and m)),
    "exchanged": ("peak and bandwidth are exchanged: operations go with the peak, bytes with the bandwidth",
                  lambda layers, values, p, w: sum(max(pair) for pair in _parts(layers, values, w, p))),
}


_CASES = (([(10, 6)], 1000, 5.0, 4.0), ([(10, 6)], 1000, 1.0, 4.0), ([(500, 6), (20, 8), (2, 5)], 100, 50.0, 3.0),
          ([(1, 2), (1, 3), (90, 1)], 7, 8.0, 2.0))


def _check(student):
    found = [number(call(student, *case), "the least time") for case in _CASES]
    expected = [_least_seconds(*case) for case in _CASES]
    for said, wrong in _LIMITS.values():  # all cases together: in one of them several mistakes give the same number
        require(same(found, expected) or not same(found, [wrong(*case) for case in _CASES]), said)
    for case, mine, right in zip(_CASES, found, expected, strict=True):
        layers, values, peak, bandwidth = case
        close(mine, right, f"layers = {layers}, values = {values}, peak = {peak:g}, bandwidth = {bandwidth:g}",
              what="the least time")


LIMITS = Spec(
    id="8.3", title="the least time of layers",
    task="Each layer does some operations per value of a map and moves some maps, at 2 bytes per value. The layers run "
         "one after the other. Write the least time that they can take on a device with this peak and this bandwidth.",
    stub=least_seconds, reference=_least_seconds, check=_check,
    hints=("One layer first. How long does its arithmetic take at least, and how long its memory? Which of the two can "
           "hide behind the other?",
           "Within a layer take the larger of the two times. The next layer begins when this one is done.",
           "Bytes of a layer: maps moved, times values of a map, times 2."),
    mutants={name: Mutant(wrong, says=said) for name, (said, wrong) in _LIMITS.items()},
    why="The maximum belongs to a layer, as its kernel does, and the sum to the layers. The maximum of the sums is "
        "smaller or equal: that would be the limit of *one* kernel that did everything. Why a compiler fuses layers "
        "can be read from the difference.")
