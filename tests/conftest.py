"""For all tests: the same random numbers in every run, and no limit on the time that an example of hypothesis takes."""

import random
import shutil
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


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """A class-folder set that no test changes."""
    from photograph_set import write_set  # here: few tests need Pillow

    return write_set(tmp_path_factory.mktemp("photographs") / "my zoo")


@pytest.fixture
def own(photographs, tmp_path):
    """A copy of it for a test to change."""
    return shutil.copytree(photographs, tmp_path / "my zoo")
