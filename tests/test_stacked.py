"""Figures one below the other: every pixel of each is there, and every sentence."""

import io

import matplotlib.image
import numpy as np
import pytest

from cbn_lab import figures


def _pixels(figure):
    return matplotlib.image.imread(io.BytesIO(figure.png()), format="png")[:, :, :3]


def test_the_parts_keep_their_pixels_and_their_order():
    parts = [figures.moments(["relu"]), figures.block_diagram("before")]
    whole = figures.stacked(parts)
    top, bottom = map(_pixels, parts)
    both = _pixels(whole)
    assert both.shape == (len(top) + len(bottom), max(top.shape[1], bottom.shape[1]), 3)
    for part, place in ((top, both[: len(top)]), (bottom, both[len(top):])):
        assert np.abs(part - place[:, : part.shape[1]]).max() < 0.01
        assert (place[:, part.shape[1]:] == 1).all()
    assert whole.alt == f"{parts[0].alt} {parts[1].alt}"


def test_nothing_cannot_be_stacked():
    with pytest.raises(ValueError, match="nothing to stack"):
        figures.stacked([])
