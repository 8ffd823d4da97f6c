"""Memory that training frees is kept for the next step, once asked for; counted in page faults, not in seconds."""

import subprocess
import sys

import pytest

from cbn_lab import _memory
from cbn_lab.train import TrainConfig, Trainer

CODE = """
import resource
import numpy as np
from cbn_lab import _memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        np.full(5_000_000, 1.0)  # 40 MB: 9,766 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = faults()
assert _memory.keep_freed()
first, kept = faults(), faults()
print(usual, first, kept)
"""


@pytest.mark.skipif(not _memory.keep_freed(), reason="the C library has no such setting")
def test_freed_memory_is_used_again_without_asking_for_its_pages():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    usual, first, kept = map(int, done.stdout.split())
    assert kept < usual / 20 and kept < first / 5


def test_training_on_a_processor_asks_for_it_once():
    _memory.keep_freed.cache_clear()
    for _ in range(2):
        Trainer(TrainConfig(model="mlp", train_images=32, device="cpu"))
    assert _memory.keep_freed.cache_info()[:2] == (1, 1)
