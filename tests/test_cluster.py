"""A sweep on a Ray that is started here, with two cores, for this machine alone."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cbn_lab import cluster, runs
from cbn_lab.config import TrainConfig

TINY = TrainConfig(model_options={"widths": [4]}, train_images=256, batch_size=64, epochs=1, device="cpu",
                   precision="fp32")
PLAN = [replace(TINY, seed=0), replace(TINY, seed=1), replace(TINY, activation="rlu"), replace(TINY, lr=1e30)]

# In a process of its own, so that nothing of Ray stays in that of the tests.
CODE = """
import json, sys
from test_cluster import PLAN
from cbn_lab import sweep

try:
    summary = sweep.fill(PLAN, sys.argv[1], jobs=2, cluster="local")
except ValueError as error:
    sys.exit(str(error))
print(json.dumps([summary.trained, summary.missing, summary.exit_code, summary.failures]))
"""


@pytest.mark.skipif(importlib.util.find_spec("ray") is None,
                    reason="Ray is not installed: pip install 'cbn-lab[cluster]'")
def test_a_sweep_on_ray_writes_the_records_here(tmp_path):
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run([sys.executable, "-c", CODE, str(tmp_path)], capture_output=True, text=True,
                            env=os.environ | {"PYTHONPATH": path}, timeout=280)
    if "timed out during startup" in result.stderr:
        pytest.skip("Ray gives itself half a minute to start, which was not enough on this busy machine")
    assert result.returncode == 0, result.stderr
    trained, missing, code, failures = json.loads(result.stdout.splitlines()[-1])
    [(name, line)] = failures.items()
    assert (trained, missing, code) == (3, [name], 1)
    assert "rlu" in name and line.startswith("unknown activation 'rlu'")
    found = {run.config["lr"]: run for run in runs.load_all(tmp_path)}
    assert found[0.1].status == "finished" and found[1e30].status == "diverged"
    assert found[0.1].provenance["commit"] == runs.commit()
    assert {path.suffix for path in tmp_path.iterdir()} == {".json"}


def test_without_ray_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'cbn-lab\[cluster\]'"):
        cluster.Cluster("local", 1, None)
