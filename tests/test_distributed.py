"""Training on 2 and 4 gloo ranks with unequal shares, against one process: curves, states, records, ends."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from functools import lru_cache

import distributed_ranks as on_ranks
import held
import pytest
import torch
import torch.distributed as dist
from torch import nn

from cbn_lab import cli, data, distributed, norms, runs, train

ENDINGS = {2: "interrupted", 4: "killed"}
SHARES = {2: [16, 17], 4: [8, 9]}
EXACT = {"rtol": 1e-10, "atol": 1e-10}
pytestmark = [pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="torch without gloo"),
              pytest.mark.skipif(os.name != "posix", reason="signals are sent as POSIX systems do"),
              pytest.mark.timeout(600)]  # three starts of torchrun in a test, each of several processes


@pytest.fixture(scope="module", params=ENDINGS, ids="{} ranks".format)
def found(request, tmp_path_factory):
    """What each rank found; the ranks are started once, with the environment that torchrun gives them."""
    ranks, folder = request.param, tmp_path_factory.mktemp("ranks")
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "cbn_lab.train"])  # which takes most of the time: once for all ranks
    arguments = (ranks, store.port, str(folder), ENDINGS[ranks])
    processes = [context.Process(target=on_ranks.main, args=(rank, *arguments)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(250)
        process.kill()
    return {"ranks": ranks, "folder": folder, "codes": [process.exitcode for process in processes],
            "results": [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(ranks)],
            "ends": [torch.load(path, weights_only=False) for path in sorted(folder.glob("end*.pt"))]}


@lru_cache
def one_process(placement: str) -> dict:
    return on_ranks.outcome(on_ranks.exact(on_ranks.of_placement(placement, sync_norm=False)))


def numbers(curve: list[dict]) -> list[dict]:
    return [{k: v for k, v in entry.items() if k not in ("seconds", "images_per_second")} for entry in curve]


def close(found, wanted, **tolerance) -> None:
    """The same keys, and numbers within the tolerance."""
    torch.testing.assert_close(found, wanted, **tolerance)


@pytest.mark.parametrize("name", on_ranks.layers())
def test_a_synchronized_layer_is_torchs_on_the_joined_batch(found, name):
    layer = on_ranks.layers()[name]
    plain = nn.BatchNorm2d(3, momentum=layer.momentum, affine=layer.affine,
                           track_running_stats=layer.track_running_stats).double()
    wanted = on_ranks.layer_step(plain, on_ranks.images(), slice(None))
    ranks = [result["layer", name] for result in found["results"]]
    for key in ("output", "gradient"):
        close(torch.cat([rank[key] for rank in ranks]), wanted[key], rtol=1e-9, atol=1e-11)
    sums = [sum(parts) for parts in zip(*(rank["parameters"] for rank in ranks), strict=True)]
    close(sums, wanted["parameters"], rtol=1e-9, atol=1e-11)
    for rank in ranks:
        close(rank["buffers"], wanted["buffers"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("placement", on_ranks.PLACEMENTS)
def test_synchronized_training_is_that_of_one_process_on_the_joined_batch(found, placement):
    """In float64: the whole curve, evaluations included, and all parameters and buffers, on every rank."""
    wanted = one_process(placement)
    for result in found["results"]:
        rank = result["exact", placement, True]
        close(numbers(rank["curve"]), numbers(wanted["curve"]), **EXACT)
        close(rank["evaluation"], wanted["evaluation"], **EXACT)
        for state in ("first", "state"):
            close(dict(rank[state]), dict(wanted[state]), **EXACT)


@pytest.mark.parametrize("placement", on_ranks.PLACEMENTS)
def test_statistics_per_rank_are_those_of_each_share(found, placement):
    """Against a loop that is written out; the running statistics are rank 0's."""
    wanted = on_ranks.twin(on_ranks.of_placement(placement, sync_norm=False), found["ranks"])
    for result in found["results"]:
        rank = result["exact", placement, False]
        pairs = torch.tensor(wanted["losses"], dtype=torch.float64).view(-1, on_ranks.CONFIG.log_every).mean(1)
        close([entry["loss"] for entry in rank["curve"]], pairs.tolist(), **EXACT)
        close(dict(rank["state"]), dict(wanted["state"]), **EXACT)
        close(rank["evaluation"], wanted["evaluation"], **EXACT)
    joined = one_process(placement)["curve"][-1]["loss"]
    assert (abs(rank["curve"][-1]["loss"] - joined) > 1e-6) == (placement != "none"), "the share is what normalizes"


def test_float32_follows_one_process(found):
    wanted = on_ranks.outcome(train.Trainer(on_ranks.of_placement("complete", sync_norm=False)))
    for result in found["results"]:
        close(numbers(result["single"]["curve"]), numbers(wanted["curve"]), rtol=1e-4, atol=1e-5)


def test_a_resumed_run_ends_bit_identical(found):
    for result in found["results"]:
        assert result["resumed"] == {"step": 2, "curves": True, "states": True}


def test_one_record_states_the_ranks_and_what_is_normalized_together(found):
    [per_rank], [plain], [joined] = ([runs.load(path) for path in (found["folder"] / name).iterdir()]
                                     for name in ("per_rank", "plain", "joined"))  # no checkpoint stays behind
    ranks = found["ranks"]
    assert (per_rank.status, per_rank.config["ranks"], "sync_norm" in per_rank.config) == ("finished", ranks, False)
    assert joined.config["sync_norm"]
    stated = per_rank.provenance["ranks"]
    assert stated == {"count": ranks, "backend": "gloo", "optimizer_batch": 33, "statistics": "per rank",
                      "normalization_batch": SHARES[ranks], "devices": [per_rank.provenance["device"]] * ranks}
    assert joined.provenance["ranks"] == stated | {"statistics": "joined", "normalization_batch": [33]}
    assert plain.provenance["ranks"] == stated | {"statistics": "none", "normalization_batch": []}
    assert "normalized" not in plain.summary() and "batch 33" in plain.summary()
    first, last = SHARES[ranks]
    assert f"on {ranks} ranks" in per_rank.summary()
    assert f"normalized over {first} to {last} images per rank, batch 33" in per_rank.summary()
    assert "normalized over 33 images joined, batch 33" in joined.summary()
    curves = [[numbers(run.curve) for run in result["runs"]] for result in found["results"]]
    assert all(curve == curves[0] for curve in curves), "every rank has the joined numbers"
    close(curves[0][0][-1]["test_loss"], per_rank.final["test_loss"], rtol=1e-5, atol=0)


def test_a_loss_that_is_not_finite_on_one_rank_stops_all_at_the_same_step(found):
    for result in found["results"]:
        kind, text = result["diverged"]
        assert kind == "DivergedError" and f"at step {on_ranks.BREAKS_AT} of 4" in text


@pytest.mark.parametrize("what, at_fault, elsewhere", [
    ("small batch", ("ValueError", "cannot be shared by"), ("ValueError", "use a larger batch_size or fewer ranks")),
    ("other weights", ("SharedError", "rank 1 has other weights than rank 0"), None),
    ("other settings", ("SharedError", "rank 1 has other settings than rank 0"), None),
    ("missing data", ("DataError", "missing.npz does not exist"), ("SharedError", "rank 1: missing.npz does not")),
    ("ranks asked for", ("ValueError", "torchrun --nproc-per-node 7"), None),
])
def test_what_is_wrong_on_one_rank_is_an_error_on_all(found, what, at_fault, elsewhere):
    for number, result in enumerate(found["results"]):
        kind, words = at_fault if number == 1 or elsewhere is None else elsewhere
        assert result[what][0] == kind and words in result[what][1]


def test_the_end_of_one_rank_ends_all_with_what_was_recorded(found):
    """With 2 ranks one gets a SIGINT, with 4 one is killed."""
    *others, _ = range(found["ranks"])
    killed = ENDINGS[found["ranks"]] == "killed"
    assert found["codes"] == [0 for _ in others] + [-signal.SIGKILL if killed else 0]
    for number in others:
        assert found["ends"][number]["failure"][0] == "LostRankError"
    assert [end["told"] for end in found["ends"]].count(True) == 1, "one of them says it"
    [record] = (found["folder"] / "end").glob("*.json")
    run = runs.load(record)
    assert run.status == "interrupted" and run.curve[-1]["step"] >= 2
    assert record.with_suffix(".ckpt").exists()


def test_a_single_process_joins_no_group(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with distributed.group():
        assert not dist.is_initialized() and signal.getsignal(signal.SIGINT) is before[0]
        assert (distributed.rank(), distributed.ranks(), distributed.local_rank()) == (0, 1, 0)
        model = nn.Linear(2, 2)
        assert distributed.replicated(model) is model
        assert distributed.together(lambda: 3) == distributed.from_rank_zero(lambda: 3) == 3
    with pytest.raises(RuntimeError, match="gloo"), distributed.watching():
        raise RuntimeError("no rank can be lost, whatever gloo says")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.fixture
def environment(monkeypatch):
    """Set these variables of torchrun's, and no others."""
    def only(**variables):
        for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
    return only


GOOD = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29777"}


@pytest.mark.parametrize("wrong, words", [
    ({"WORLD_SIZE": "foo"}, "in the environment, WORLD_SIZE must be a whole number, 1 or more, got 'foo'"),
    ({"WORLD_SIZE": "0"}, "WORLD_SIZE must be a whole number, 1 or more, got '0'"),
    ({"RANK": ""}, "WORLD_SIZE is 2, but RANK is not set"),
    ({"RANK": "one"}, "WORLD_SIZE is 2, but RANK must be a whole number, from 0 to 1, got 'one'"),
    ({"RANK": "2"}, "RANK must be a whole number, from 0 to 1, got '2'"),
    ({"LOCAL_RANK": "-1"}, "LOCAL_RANK must be a whole number, from 0 to 1, got '-1'"),
    ({"MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
    ({"MASTER_PORT": ""}, "MASTER_PORT is not set"),
    ({"MASTER_PORT": "70000"}, "MASTER_PORT must be a whole number, from 1 to 65535, got '70000'"),
])
def test_an_environment_that_describes_no_group_is_refused_in_a_line(wrong, words, environment, capsys, tmp_path):
    environment(**GOOD | wrong)
    assert cli.main(["train", "--out", str(tmp_path)]) == 2
    out, err = (text.splitlines() for text in capsys.readouterr())
    assert out == [] and len(err) == 1 and err[0].startswith("cbn-lab: error: ") and words in err[0]
    assert "torchrun sets WORLD_SIZE, RANK" in err[0] and "--nproc-per-node N" in err[0] and "unset" in err[0]


@pytest.mark.parametrize("size", ["", " ", "1"])
def test_an_empty_world_size_is_one_process(size, environment):
    environment(WORLD_SIZE=size, RANK="what")
    with distributed.group():
        assert not dist.is_initialized()


def test_a_torchrun_that_is_gone_is_noticed_at_once(environment, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with socket.socket() as deaf:  # nobody listens there, and nobody else can begin to
        deaf.bind(("127.0.0.1", 0))
        port = str(deaf.getsockname()[1])
        environment(**GOOD | {"MASTER_PORT": port})
        with pytest.raises(ValueError, match=f"does not answer at 127.0.0.1, port {port}"), distributed.group():
            pass


def test_a_port_that_is_taken_is_named_in_a_line(environment, capsys, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        environment(**GOOD | {"MASTER_PORT": port})
        assert cli.main(["train", "--out", str(tmp_path)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"could not meet at 127.0.0.1, port {port}" in line and "a port that is free" in line


@pytest.mark.parametrize("placement", [*on_ranks.PLACEMENTS, ("none", "before_weight", "complete", *["both"] * 16)])
def test_sync_norm_reaches_every_norm(placement):
    """Of a residual net as well, whose shortcuts have norms of their own."""
    images = data.load("digits", "train")
    model = "convnet" if isinstance(placement, str) else "resnet20"
    config = train.TrainConfig(model=model, placement=placement, sync_norm=True)
    found = list(train.initial_model(config, images).modules())
    assert all(module.sync for module in found if isinstance(module, norms.Standardize))
    assert all(isinstance(module, norms.SyncBatchNorm2d) for module in found if isinstance(module, nn.BatchNorm2d))
    norm = (norms.Standardize, norms.SyncBatchNorm2d)
    assert any(isinstance(module, norm) for module in found) == (placement != "none")


def test_a_damaged_record_of_another_run_does_not_stop_this_one(tmp_path):
    """One of equal data, network, arm and seed, whose record is looked at for the number of its ranks."""
    config = train.TrainConfig(model="mlp", model_options={"width": 8}, epochs=1, device="cpu", precision="fp32")
    own = f"{runs.name(config.resolved().record())}.json"
    (tmp_path / f"{own[:-13]}01234567.json").write_text("{")
    assert train.fit(config, out=tmp_path, resume=True).status == "finished"
    (tmp_path / own).write_text("{")
    with pytest.raises(runs.RecordError, match=f"{own} is not readable JSON"):
        train.fit(config, out=tmp_path, resume=True)


@pytest.mark.parametrize("ranks, placement, matters", [
    (1, "complete", False), (2, "none", False), (2, ("none", "none"), False), (2, "complete", True),
    (2, ("none", "before"), True),
])
def test_sync_norm_is_in_the_name_only_where_it_changes_the_run(ranks, placement, matters, monkeypatch):
    monkeypatch.setattr(distributed, "ranks", lambda: ranks)
    monkeypatch.setattr(distributed, "rank", lambda: 0)
    synchronized, plain = (train.TrainConfig(placement=placement, sync_norm=sync_norm, device="cpu").resolved()
                           for sync_norm in (True, False))
    assert synchronized.sync_norm == matters
    assert (runs.name(synchronized.record()) != runs.name(plain.record())) == matters


@pytest.mark.parametrize("setting, message", [
    ({"ranks": 0}, "ranks must be at least 1"), ({"sync_norm": 1}, "sync_norm must be True or False"),
    ({"ranks": 2}, "ranks=2 was asked for, and there are 1; start the run with torchrun --nproc-per-node 2"),
])
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        train.TrainConfig(**setting).resolved()


@pytest.mark.parametrize("setting, message", [
    ({"device": "cuda:1"}, "each takes a GPU of its own"), ({"device": "cuda"}, "no GPU for rank 3"),
    ({"norm_options": {"sync": True}}, "say sync_norm=True"),
    ({"cuda_graphs": True, "sync_norm": True, "device": "cuda"}, "leave one of them off"),
])
def test_what_several_ranks_do_not_allow_is_refused(setting, message, monkeypatch):
    """On a machine that has two GPUs, except where the fourth rank wants one."""
    monkeypatch.setattr(distributed, "ranks", lambda: 4)
    monkeypatch.setattr(distributed, "rank", lambda: 3)
    monkeypatch.setenv("LOCAL_RANK", "3" if "no GPU" in message else "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=message):
        train.TrainConfig(**({"device": "cpu", "precision": "fp32"} | setting)).resolved()


# With torchrun

LONG = ["train", "--model-option", "widths=8,8", "--activation", "tanh", "--epochs", "10", "--evaluate-every", "0",
        "--json"]


def torchrun(*arguments, ranks: int = 2, hold=None) -> subprocess.Popen:
    """`cbn-lab` on so many ranks. With a folder `hold`, the last of them waits there in its middle (held.py)."""
    module = ["cbn_lab.cli"] if hold is None else ["held", str(hold)]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "-m", *module,
               *arguments]
    return subprocess.Popen(command, env=held.environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def children(process: subprocess.Popen) -> list[int]:
    task = f"/proc/{process.pid}/task/{process.pid}/children"
    with open(task) as file:
        return [int(number) for number in file.read().split()]


def lives(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the second where it ends between opening and reading
        return False


def test_a_run_whose_rank_is_killed_keeps_its_record_and_resumes(tmp_path, capsys):
    arguments = [*LONG, "--out", str(tmp_path)]
    process = torchrun(*arguments, hold=tmp_path)
    [rank] = held.waiting(tmp_path, process)  # the other one waits for it in a collective, or is about to
    os.kill(rank, signal.SIGKILL)
    out, err = process.communicate(timeout=140)
    said = [line for line in err.splitlines() if line.startswith("cbn-lab:")]
    assert process.returncode != 0
    assert len(said) == 1 and "a rank was lost" in said[0] and "--resume goes on from the last checkpoint" in said[0]
    [record] = tmp_path.glob("*.json")
    assert runs.load(record).status == "interrupted" and json.loads(out.splitlines()[-1])["status"] == "interrupted"

    assert cli.main([*arguments, "--resume"]) == 2
    assert "begun on 2 ranks" in capsys.readouterr().err

    process = torchrun(*arguments, "--resume")
    out, err = process.communicate(timeout=140)
    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["record"] == str(record) and len(out.splitlines()) == 1
    run = runs.load(record)
    assert run.status == "finished" and not list(tmp_path.glob("*.ckpt*"))
    assert [entry["step"] for entry in run.curve] == sorted({entry["step"] for entry in run.curve})


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="the ranks are found as Linux shows them")
@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_whose_torchrun_is_killed_end_and_keep_the_record(ranks, tmp_path):
    """They would train on as orphans; the same command goes on and ends as a run that was left alone."""
    whole, cut = ([*LONG, "--out", str(tmp_path / name)] for name in ("whole", "cut"))
    torchrun(*whole, ranks=ranks).communicate(timeout=140)
    process = torchrun(*cut, ranks=ranks, hold=tmp_path)
    held.waiting(tmp_path, process)
    started = children(process)
    assert len(started) >= ranks
    process.kill()
    _, err = process.communicate(timeout=140)  # until the last of them has closed its end
    end = time.monotonic() + 140
    while any(map(lives, started)):
        assert time.monotonic() < end, "they train on"
        time.sleep(0.1)
    [said] = [line for line in err.splitlines() if line.startswith("cbn-lab:")]
    assert "torchrun was killed; what was recorded is kept" in said and "from the last checkpoint" in said
    [record] = (tmp_path / "cut").glob("*.json")
    stopped = runs.load(record)
    assert stopped.status == "interrupted" and stopped.curve

    process = torchrun(*cut, "--resume", ranks=ranks)
    _, err = process.communicate(timeout=140)
    assert process.returncode == 0, err
    run, wanted = runs.load(record), runs.load(tmp_path / "whole" / record.name)
    assert run.curve[0] == stopped.curve[0], "it started again"  # times and all; steps since a checkpoint are new
    assert (run.status, numbers(run.curve)) == ("finished", numbers(wanted.curve))
    assert not list((tmp_path / "cut").glob("*.ckpt*"))


@pytest.mark.parametrize("joined", [True, False])
def test_a_process_leaves_with_its_code_and_its_output(joined):
    store = "object()" if joined else "None"
    code = f"from cbn_lab import distributed as d; d._state.store = {store}; print('said', end=''); d.leave(3)"
    found = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=120)
    assert (found.returncode, found.stdout) == (3, "said")
