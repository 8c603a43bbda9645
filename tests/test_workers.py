import os
import signal
import subprocess
import sys
import time

import pytest

POOL = """
import multiprocessing, os, sys, time
from concurrent.futures import ProcessPoolExecutor
from corral.workers import begin_worker, ended_on_failure, started_whole

def main():
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context, initializer=begin_worker) as pool, ended_on_failure():
        with started_whole():
            jobs = [pool.submit(time.sleep, 60) for _ in range(2)]
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        if sys.argv[1] == "whole":
            time.sleep(2)
        jobs[0].result()

if __name__ == "__main__":
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
