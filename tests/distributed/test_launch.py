"""Processes on one machine: started, named when they are lost, ended together, and where each stands."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import corral
from corral.distributed import launch, ranks, watch
from corral.distributed.launch import find_place, must_launch
from corral.distributed.ranks import Place
from corral.errors import UsageError

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
SLURM = {
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_JOB_ID": "40123",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
}


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
    """No place in the environment."""
    for name in (*TORCHRUN, *SLURM):
        monkeypatch.delenv(name, raising=False)


def put(monkeypatch, values):
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_a_place_is_that_of_torchrun(monkeypatch):
    put(monkeypatch, dict(zip(TORCHRUN, ("3", "4", "1", "10.0.0.7", "29500"), strict=True)))
    expected = Place(3, 4, 1, "10.0.0.7", 29500)
    assert find_place(None) == find_place(4) == find_place(2, 2) == expected
    with pytest.raises(UsageError, match="torchrun started 4 processes, 3 devices × 1 nodes are 3"):
        find_place(3)
    monkeypatch.delenv("MASTER_PORT")
    with pytest.raises(UsageError, match="check MASTER_PORT"):
        find_place(None)
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(UsageError, match="not as torchrun does"):
        find_place(None)


def test_a_place_is_that_of_a_slurm_step_where_devices_are_asked_for(monkeypatch):
    put(monkeypatch, SLURM)
    assert find_place(None) is None
    assert find_place(1) is None
    assert find_place(4, 2) == Place(5, 8, 1, "gpu07", 20_123)
    with pytest.raises(UsageError, match="srun started 8 processes"):
        find_place(2, 2)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")  # a task of its own
    assert find_place(4) is None


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("a", "a"),
        ("a,b", "a"),
        ("n[007-009,12],m", "n007"),
        ("n-[1,3]", "n-1"),
        ("x[2-3]-ib,y", "x2-ib"),
        ("h.org", "h.org"),
    ],
)
def test_the_first_host_of_a_list(hosts, first):
    assert launch._first_host(hosts) == first


def test_processes_are_started_here_but_for_several_machines():
    assert must_launch(None, 2, None)
    assert not must_launch(None, None, None)
    assert not must_launch(Place(0, 2), 2, None)
    with pytest.raises(UsageError, match="--nnodes 2 --nproc-per-node 4"):
        must_launch(None, 4, 2)
    with pytest.raises(UsageError, match="devices must be at least 1, found 0"):
        find_place(0)


def test_what_other_processes_cannot_be_told_is_refused(tmp_path):
    x = torch.rand(20, 1, 8, 8), torch.arange(20) % 2
    with pytest.raises(UsageError, match=r"data of type tuple: .* name it .*torchrun"):
        corral.train("at", data=x, out=tmp_path / "run", devices=2)
    with pytest.raises(UsageError, match=r"devices 2: this call cannot be sent .* command line's --devices"):
        corral.evaluate(torch.nn.Flatten(), x, threat=("Linf", 0.1), devices=2)
    assert not list(tmp_path.iterdir())


def test_more_processes_than_gpus_are_refused():
    with pytest.raises(UsageError, match="this machine has 1 GPUs"):
        launch.launched(["-c", "1"], 2, gpus=1)


def test_alone_every_exchange_is_the_identity():
    assert ranks.everyones(3) == [3]
    assert ranks.merged({2: "b", 0: "a"}) == ["a", "b"]
    assert list(ranks.dealt("ab")) == [(0, "a"), (1, "b")]
    assert ranks.is_first()
    assert ranks.speaks()
    assert ranks.size() == 1


def test_a_silent_process_is_named_within_the_stated_time(monkeypatch):
    monkeypatch.setattr(watch, "SILENT_SECONDS", 1.0)
    monkeypatch.setattr(watch, "BEAT_SECONDS", 0.1)
    store = dist.HashStore()
    store.set("who/1", "node7, process 12")
    store.set("beat/1", "0")
    guard = watch.Watch(store, 0, 2)
    started = time.monotonic()
    with guard.watching():
        beating = 0
        while time.monotonic() - started < 1.5:  # longer than the silence: it gives signs
            beating += 1
            store.set("beat/1", str(beating))
            assert not guard.found.wait(0.1)
        stopped = time.monotonic()
        error = guard.lost(RuntimeError("connection closed"))
    assert 0.8 <= time.monotonic() - stopped < 3
    assert re.fullmatch(r"rank 1 \(node7, process 12\) gave no sign of life for 1 s; what is finished .*", str(error))
    assert store.get("lost").decode().startswith("rank 1 ")


def beside_rank_0():
    """The watch of rank 1, whose rank 0 is there and silent."""
    store = dist.HashStore()
    for name in ("who/0", "beat/0"):
        store.set(name, "0")
    return watch.Watch(store, 1, 2)


def test_what_a_process_says_of_its_end_all_know(monkeypatch):
    monkeypatch.setattr(watch, "BEAT_SECONDS", 0.1)
    guard = beside_rank_0()
    with guard.watching():
        threading.Timer(0.2, guard.store.set, ("lost", "rank 0: the loss is not finite")).start()
        assert str(guard.lost(RuntimeError())).startswith("rank 0: the loss is not finite; ")


def test_no_thread_is_in_the_store_when_the_work_has_ended(monkeypatch):
    # Python aborts a process whose end meets one there: "terminate called without an active exception".
    monkeypatch.setattr(watch, "BEAT_SECONDS", 0.1)
    guard = beside_rank_0()
    entered = threading.Event()

    class Slow:
        def set(self, name, value):
            entered.set()
            time.sleep(1)

        def check(self, names):
            return False

        def get(self, name):
            return b"0"

    guard.store = Slow()
    before = threading.active_count()
    with guard.watching():
        assert entered.wait(10)
    assert threading.active_count() == before


def lines(path: Path, least: int, process) -> None:
    """Wait until a run has so many epochs."""
    end = time.monotonic() + 90
    while not (path.is_file() and len(path.read_text().splitlines()) >= least):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)


def begun(run, *more):
    command = [sys.executable, "-m", "corral", "train", "at", "--data", "digits", "--out", str(run), "--devices", "2"]
    options = ["--quiet", "--epochs", "3000", "--set", "data.train=120", "--device", "cpu", *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True, env=environment)


def test_what_ends_all_processes_is_one_line(tmp_path):
    more = ["--set", "training.optimiser=sgd", "--set", "training.learning_rate=1e9"]
    with begun(tmp_path / "run", *more) as process:
        _, said = process.communicate(timeout=90)
    assert process.returncode == 1
    assert re.fullmatch(
        r"corral: the loss is not finite at step \d+ of epoch \d/3000; lower the learning rate.*\n", said
    )


def test_a_process_that_was_started_with_others_leaves_words_to_the_first(monkeypatch):
    assert not launch.is_spoken_for()
    monkeypatch.setenv(launch.STARTED, "1")
    monkeypatch.setenv("RANK", "0")
    assert not launch.is_spoken_for()
    monkeypatch.setenv("RANK", "1")
    assert launch.is_spoken_for()


def rank_of(pid: int) -> str | None:
    """The rank that a process was started as."""
    found = re.search(rb"(?:^|\0)RANK=(\d+)\0", Path(f"/proc/{pid}/environ").read_bytes())
    return found and found[1].decode()


def children(process) -> dict[str | None, int]:
    """The processes that one has started, by rank."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return {rank_of(int(pid)): int(pid) for pid in found}


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for processes in /proc")
def test_a_lost_process_is_named_and_the_run_goes_on(tmp_path):
    run = tmp_path / "run"
    with begun(run) as process:
        lines(run / "metrics.jsonl", 2, process)
        started = children(process)
        os.kill(started["1"], signal.SIGKILL)
        killed = time.monotonic()
        _, said = process.communicate(timeout=30)
        assert time.monotonic() - killed < 10
        assert process.returncode == 1
    assert re.fullmatch(
        rf"corral: rank 1 \(process {started['1']}\) was ended from outside \(signal 9, SIGKILL; .*\): .*--resume.*\n",
        said,
    )
    assert not any(Path(f"/proc/{pid}").exists() for pid in started.values())
    before = len((run / "metrics.jsonl").read_text().splitlines())
    with begun(run, "--resume") as process:
        lines(run / "metrics.jsonl", before + 1, process)
        started = children(process)
        process.terminate()
        _, said = process.communicate(timeout=30)
        assert process.returncode == 143
    assert re.fullmatch(r"\n?corral: interrupted; the last finished epoch is kept; continue with: .*\n", said)
    assert not any(Path(f"/proc/{pid}").exists() for pid in started.values())
