import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from corral import lock
from corral.errors import CorralError
from corral.files import write_atomically
from corral.lock import held, locked

HOLDING = """
import sys, time
from pathlib import Path
from corral.lock import held
with held(Path(sys.argv[1]), "train"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds tmp_path/run."""
    child = subprocess.Popen([sys.executable, "-c", HOLDING, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "held\n"
    yield child
    child.kill()
    child.communicate()


def test_a_second_process_is_refused_at_once_by_the_holders_name_and_a_killed_holders_lock_is_taken_over(
    tmp_path, holder
):
    run = tmp_path / "run"
    words = (
        rf"run: process {holder.pid} on {socket.gethostname()}, since 20\d\d-.*Z, is at work here \(train\); wait until"
    )
    with pytest.raises(CorralError, match=words), held(run, "train"):
        raise AssertionError
    with held(run, "another kind of work"):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (run / ".train.lock").is_file()
    begun = time.monotonic()
    with held(run, "train"):
        assert json.loads((run / ".train.lock").read_text())["process"] == os.getpid()
    assert time.monotonic() - begun < 1
    assert list(run.iterdir()) == []


def test_two_threads_of_one_process_are_two_holders(tmp_path):
    with held(tmp_path, "train"), pytest.raises(CorralError, match="at work here"), held(tmp_path, "train"):
        raise AssertionError
    with held(tmp_path, "train"):
        pass


def test_a_folder_made_for_a_lock_goes_with_it_unless_something_was_written_there(tmp_path):
    with held(tmp_path / "a" / "run", "train"):
        pass
    with held(tmp_path / "b", "train"):
        (tmp_path / "b" / "file").write_text("x")
    assert not (tmp_path / "a").exists()
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["file"]


def test_a_lock_of_another_host_is_taken_over_once_its_holder_is_silent(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SILENT_SECONDS", 0.3)
    path = tmp_path / ".train.lock"
    path.write_text(json.dumps({"process": 7, "host": "elsewhere", "since": "2026-01-01T00:00:00Z"}))
    stop = threading.Event()

    def touch():
        while not stop.wait(0.02):
            os.utime(path)

    there = threading.Thread(target=touch)
    there.start()
    with (
        pytest.raises(CorralError, match="process 7 on elsewhere, since 2026-01-01"),
        held(tmp_path, "train"),
    ):
        raise AssertionError
    stop.set()
    there.join()
    with held(tmp_path, "train"):
        assert json.loads(path.read_text())["host"] == socket.gethostname()


def test_a_holder_shows_that_it_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.02)
    with held(tmp_path, "train"):
        path = tmp_path / ".train.lock"
        os.utime(path, (0, 0))
        time.sleep(0.3)
        assert path.stat().st_mtime > 0


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"process": "x", "host": 1, "since": 2}', b"[" * 4096])
def test_a_damaged_lock_file_whose_holder_is_gone_is_no_obstacle(tmp_path, content):
    (tmp_path / ".train.lock").write_bytes(content)
    with held(tmp_path, "train"):
        pass


def test_a_folder_that_cannot_be_locked_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CorralError, match=r"file/\.train\.lock: cannot be written"), held(tmp_path / "file", "train"):
        raise AssertionError


def test_a_waiting_lock_waits(tmp_path):
    order = []

    def second():
        with locked(tmp_path / ".lock"):
            order.append("second")

    with locked(tmp_path / ".lock"):
        other = threading.Thread(target=second)
        other.start()
        time.sleep(0.1)
        order.append("first")
    other.join()
    assert order == ["first", "second"]


def test_what_killed_writes_left_is_removed_and_a_write_that_goes_on_is_not(tmp_path):
    code = (
        "import os, signal, sys, time; from pathlib import Path; from corral import files\n"
        "def stop(handle): print('writing', flush=True); time.sleep(60)\n"
        "files.os.fsync = stop\n"
        "files.write_atomically(Path(sys.argv[1]), b'whole')"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "file")]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for child in children:
        assert child.stdout.readline() == "writing\n"
    for left in tmp_path.iterdir():
        os.utime(left, (0, 0))
    with held(tmp_path, "train"):
        assert len([path for path in tmp_path.iterdir() if ".corral-" in path.name]) == 2
    children[0].kill()
    children[0].communicate()
    with held(tmp_path, "train"):
        (kept,) = (path for path in tmp_path.iterdir() if ".corral-" in path.name)
    children[1].kill()
    children[1].communicate()
    write_atomically(tmp_path / "file", b"new")
    assert not kept.exists()
