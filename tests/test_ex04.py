"""Mistakes in the exercises of notebook 04 that its checks name beside the listed mutants."""

import pytest

from cbn_lab.exercises import ex04, ex04_matched, ex04_scale
from cbn_lab.exercises.grading import grade

MOMENTS = {name: (said, ex04._with(about, wrong)) for name, (said, about, wrong) in ex04._FURTHER.items()}
FURTHER = [(spec, name, *found) for spec, more in ((ex04.MOMENTS, MOMENTS), (ex04_scale.FREE, ex04_scale._FURTHER),
                                                   (ex04_matched.MATCHED, ex04_matched._FURTHER))
           for name, found in more.items()]


@pytest.mark.parametrize("spec, said, wrong", [(spec, said, wrong) for spec, _, said, wrong in FURTHER],
                         ids=[f"{spec.id} {name}" for spec, name, _, _ in FURTHER])
def test_further_mistake_is_named(spec, said, wrong):
    assert grade(spec, wrong).message == said
