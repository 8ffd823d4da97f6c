"""For all tests: the same random numbers in every run, and no limit on the time that an example of hypothesis takes."""

import random
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# Which examples are drawn must not depend on luck, nor whether they pass on how busy the machine is. To look for new
# ones: pytest --hypothesis-profile=default.
settings.register_profile("course", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("course")


def _seed() -> None:
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def seeded_file():
    """For the fixtures of a file: which files came before, in the same process, is not the same in every run."""
    _seed()


@pytest.fixture(autouse=True)
def seeded(seeded_file):
    """For each test, so that one alone draws what it draws among all."""
    _seed()
