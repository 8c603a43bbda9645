import os
import signal
import subprocess
import sys
import time

import pytest

POOL = """
import multiprocessing, sys, time
from pathlib import Path
from corral.workers import started_whole, worker_pool

def main():
    with worker_pool(2, Path("here")) as pool:
        with started_whole(pool):
            jobs = [pool.submit(time.sleep, 60) for _ in range(2)]
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        if sys.argv[1] != "begun":
            time.sleep(2)
        jobs[0].result()
main()
"""


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="looks at processes in /proc")
@pytest.mark.parametrize("moment", ["begun", "whole"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "Ctrl-C for all"])
def test_workers_end_with_the_process_that_started_them(tmp_path, number, moment):
    (tmp_path / "pool.py").write_text(POOL)
    command = [sys.executable, str(tmp_path / "pool.py"), moment]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    child = subprocess.Popen(command, **pipes, start_new_session=True)
    workers = [int(pid) for pid in child.stdout.readline().split()]
    assert len(workers) == 2
    time.sleep(1.5 if moment == "whole" else 0)
    if number == signal.SIGKILL:
        child.kill()
    else:
        os.killpg(child.pid, number)
    deadline = time.monotonic() + 15
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [pid for pid in workers if alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    _, err = child.communicate(timeout=30)
    assert left == []
    if number == signal.SIGINT:
        assert err.count("Traceback") == 1, "the first process's own, which has no command line around it"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills a process")
def test_a_worker_that_is_killed_ends_the_others_with_one_line(tmp_path):
    (tmp_path / "pool.py").write_text(POOL)
    command = [sys.executable, str(tmp_path / "pool.py"), "killed"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first, second = [int(pid) for pid in child.stdout.readline().split()]
    os.kill(first, signal.SIGKILL)
    _, err = child.communicate(timeout=30)
    assert err.splitlines()[-1] == (
        "corral.errors.CorralError: here: a worker process was ended from outside (out of memory?); the same command "
        "goes on, with fewer --workers"
    )
    assert not alive(second)
