"""The one command for a GPU: what is recorded of this GPU is not measured again, a speed that fails stops nothing."""

import json

import pytest
import torch

from cbn_lab import bench, full, grid, ladder
from cbn_lab.bench import Row


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)


@pytest.fixture
def calls(monkeypatch, gpu):
    """What is called, in order, instead of hours on a GPU. The entry "limits" fails."""
    found = []

    def measured(only, *, out, root):
        found.append((*only, out.name, root))
        if only == ["limits"]:
            raise RuntimeError("out of memory")

    monkeypatch.setattr(bench, "main", measured)
    monkeypatch.setattr(ladder, "main", lambda arguments: found.append(("ladder", *arguments)))
    monkeypatch.setattr(grid, "main", lambda arguments: found.append(("grid", *arguments)) or 0)
    return found


def test_without_a_gpu_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as end:
        full.main(["--results", str(tmp_path)])
    assert end.value.code == 2 and "needs a GPU" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_everything_missing_is_measured_and_the_grid_does_not_wait_for_what_fails(tmp_path, calls, capsys):
    assert full.main(["--results", str(tmp_path), "--root", "images", "--jobs", "3"]) == 1
    assert calls == [("stack", "bench", "images"), ("limits", "bench", "images"), ("gpu", "bench", "images"),
                     ("ladder", "--device", "cuda", "--out", str(tmp_path / "speed"), "--root", "images"),
                     ("grid", "--size", "full", "--out", str(tmp_path / "grid"), "--root", "images", "--jobs", "3")]
    said = capsys.readouterr().err
    assert "out of memory" in said and "not measured: limits" in said


def test_what_is_recorded_of_this_gpu_is_not_measured_again(tmp_path, calls):
    """The records of a CPU do not count."""
    for entry in ("stack", "limits"):
        bench.save(entry, [Row("a", 1.0)], {}, tmp_path / "bench")
    for name in ("gpu.json", "limits.json"):
        (tmp_path / "bench" / name).write_text(json.dumps({}))
    (tmp_path / "speed").mkdir()
    (tmp_path / "speed" / "amd-epyc-cpu-2-threads-convnet-b128.json").write_text("{}")
    assert full.missing(tmp_path) == ["gpu", "ladder"]
    (tmp_path / "speed" / "nvidia-h200-convnet-b512.json").write_text("{}")
    assert full.missing(tmp_path) == ["gpu"]
    assert full.main(["--results", str(tmp_path)]) == 0
    assert [call[0] for call in calls] == ["gpu", "grid"]
