"""Exercises of notebook 05: moments, the mean spike, what standardizing cannot prevent, homogeneity."""

from cbn_lab.exercises._ex05_layer import SCALE, WORST
from cbn_lab.exercises._ex05_moments import MOMENTS, SPECTRUM
from cbn_lab.exercises.core import Spec

EXERCISES: tuple[Spec, ...] = (MOMENTS, SPECTRUM, WORST, SCALE)
