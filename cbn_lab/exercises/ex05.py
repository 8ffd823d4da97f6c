"""Exercises of notebook 05: moments, the mean spike, homogeneity, what standardizing cannot prevent."""

from cbn_lab.exercises._ex05_layer import SCALE, WORST
from cbn_lab.exercises._ex05_moments import MOMENTS, SPECTRUM
from cbn_lab.exercises.core import Spec

EXERCISES: tuple[Spec, ...] = (MOMENTS, SPECTRUM, SCALE, WORST)
