"""Mini-batches that cannot be independent draws, because they share too many samples.

Independent random mini-batches of a finite data set share some samples: two batches with d and d' distinct samples out
of N share d d'/N on average, and their number is hypergeometric. The N distinct samples seen in all batches stand for
the data set's, which are at least as many, so that the test only ever errs towards "could be independent". It finds
repeated batches and windows that slide over the data. It cannot see overlap behind random crops or added noise, and a
partition of the data (one epoch) passes, although its batches are not independent either: their mean is fixed.
"""

from itertools import combinations

import torch
from scipy.stats import hypergeom

_CHANCE = 1e-6  # of refusing independent batches, over all pairs


def refuse_overlap(batches: list[set]) -> None:
    """`batches` has each batch's distinct samples, as hashes. ValueError if two share more than chance allows."""
    distinct = len(set().union(*batches))
    if len(batches) > 1 and all(len(batch) == distinct for batch in batches):
        raise ValueError(f"all {len(batches)} batches hold the same {distinct} samples, so there is no variance to "
                         "estimate; draw them independently, with cbn_lab.probes.gradients.draw for example")
    pairs = len(batches) * (len(batches) - 1) / 2
    allowed: dict[tuple[int, int], float] = {}
    for (i, one), (j, other) in combinations(enumerate(batches), 2):
        sizes = (len(one), len(other))
        if sizes not in allowed:
            allowed[sizes] = float(hypergeom.isf(_CHANCE / pairs, distinct, *sizes))
        shared = len(one & other)
        if shared > allowed[sizes]:
            raise ValueError(
                f"batches {i} and {j} share {shared} of their {len(one)} samples, where independent draws from the "
                f"{distinct} samples seen would share about {sizes[0] * sizes[1] / distinct:.1f}: they overlap. Draw "
                "the batches independently, with cbn_lab.probes.gradients.draw for example")


def samples(inputs: torch.Tensor) -> set:
    """A hash of each distinct row of `inputs`."""
    return {hash(row.tobytes()) for row in inputs.detach().cpu().contiguous().numpy()}
