"""Where this process stands among several, and starting several on this machine."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

from corral.devices import cores
from corral.distributed import ranks
from corral.distributed.ranks import Place
from corral.distributed.watch import REMEDY
from corral.errors import CorralError, UsageError
from corral.processes import how_it_ended

# Set for processes that `launched` started: they end with the one that started them.
STARTED = "CORRAL_STARTED"
POLL_SECONDS = 0.1
# What the first process may take to end its work when it is interrupted, and the others when one has failed.
UNWIND_SECONDS, FAIL_SECONDS = 6.0, 5.0
# Ports that a job's number is mapped to, where SLURM starts the processes.
FIRST_PORT, PORTS = 20_000, 20_000


def find_place(devices: int | None, nodes: int | None = None) -> Place | None:
    """The place of this process among `devices` × `nodes` that were started together; None where it is alone.

    By the environment of torchrun, or of SLURM's `srun` with a task for each device. Where the process has joined
    others by torch.distributed for work of its own, it is alone unless `devices` are asked for.

    Raises:
        UsageError: another number of processes was started, or devices and nodes are impossible.
    """
    for name, value in (("devices", devices), ("nodes", nodes)):
        if value is not None and value < 1:
            raise UsageError(f"{name} must be at least 1, found {value}")
    if devices is None and ranks.is_taken():
        return None
    place, by = ranks.place_from_environment(), "torchrun"
    if place is None and (devices or 1) * (nodes or 1) > 1:
        place, by = _place_of_slurm(), "srun"
    if place is None or place.size == 1:
        return None
    wanted = None if devices is None else devices * (nodes or 1)
    if wanted is not None and place.size != wanted:
        raise UsageError(
            f"{by} started {place.size} processes, {devices} devices × {nodes or 1} nodes are {wanted}: "
            "give the numbers that were started"
        )
    if os.environ.get(STARTED):
        _end_with_parent()
    return place


def must_launch(place: Place | None, devices: int | None, nodes: int | None) -> bool:
    """Whether the processes are to be started here.

    Raises:
        UsageError: on several machines, where torchrun or srun starts them.
    """
    if place is not None or (devices or 1) * (nodes or 1) == 1:
        return False
    if (nodes or 1) > 1:
        raise UsageError(
            f"nodes {nodes}: start a process for each device by srun (--ntasks-per-node {devices or 1}) or by torchrun "
            f"(--nnodes {nodes} --nproc-per-node {devices or 1}) with this same command"
        )
    return True


def is_spoken_for() -> bool:
    """Whether another process says why this one ends: the first of those it joined, or was started with here."""
    return not ranks.speaks() or (bool(os.environ.get(STARTED)) and os.environ.get("RANK") != "0")


@contextmanager
def shared(devices: int | None, nodes: int | None) -> Iterator[None]:
    """Share the block's work with the processes that torchrun, srun or the command line started; arguments as theirs.

    Raises:
        UsageError: `devices` are asked for and none were started.
    """
    place = find_place(devices, nodes)
    if must_launch(place, devices, nodes):
        raise UsageError(
            f"devices {devices}: this call cannot be sent to other processes: start the script by torchrun "
            f"--nproc-per-node {devices}, or use the command line's --devices"
        )
    with ranks.together(place):
        yield


def launched(command: Sequence[str], devices: int, *, gpus: int | None, stdout: int | None = None) -> int:
    """Run a Python command in a process for each device of this machine; returns the exit code.

    Each has the environment that torchrun gives. When one is lost or fails, the others are ended; an interruption ends
    the first, which says what is kept, and then the others.

    Args:
        command: what stands behind the Python interpreter.
        devices: how many processes.
        gpus: how many GPUs there are; None for CPUs.
        stdout: where their standard output goes, as `subprocess.Popen` has it; default this process's.

    Raises:
        UsageError: more processes than GPUs.
        CorralError: a process was ended from outside; the message names it.
    """
    if gpus is not None and devices > gpus:
        raise UsageError(f"devices {devices}: this machine has {gpus} GPUs; ask for as many, or for --device cpu")
    shared = {
        "WORLD_SIZE": str(devices),
        "LOCAL_WORLD_SIZE": str(devices),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        STARTED: "1",
        # What a process says in C++ of another's end; Python's exceptions say it too.
        "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(cores() // devices, 1))),
    }
    children = [
        subprocess.Popen(
            [sys.executable, *command],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.PIPE,
            stdout=stdout,
            # A terminal's Ctrl-C goes to this process alone.
            start_new_session=True,
        )
        for rank in range(devices)
    ]
    try:
        return _waited(children)
    except KeyboardInterrupt:
        children[0].send_signal(signal.SIGINT)
        _wait(children[:1], UNWIND_SECONDS)
        raise
    finally:
        for child in children:
            child.kill()
            child.wait()
            if child.stdin is not None:
                child.stdin.close()


def _waited(children: Sequence["subprocess.Popen[bytes]"]) -> int:
    """The exit code of all, once they have ended, or of the first that fails."""
    while True:
        codes = [child.poll() for child in children]
        for rank, code in enumerate(codes):
            if code is not None and code < 0:
                raise CorralError(
                    f"rank {rank} (process {children[rank].pid}) was ended from outside ({how_it_ended(code)}; out of "
                    f"memory?): {REMEDY}"
                )
        failed = next((code for code in codes if code), None)
        if failed:
            _wait(children, FAIL_SECONDS)  # each says what it has to say
            return failed
        if all(code == 0 for code in codes):
            return 0
        time.sleep(POLL_SECONDS)


def _wait(children: Sequence["subprocess.Popen[bytes]"], seconds: float) -> None:
    end = time.monotonic() + seconds
    while any(child.poll() is None for child in children) and time.monotonic() < end:
        time.sleep(POLL_SECONDS)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@cache
def _end_with_parent() -> None:
    """Have this process end when the one that started it does, which holds the other end of its standard input."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _place_of_slurm() -> Place | None:
    """The place of a task of a SLURM step; None outside of one, and in a step of one task."""
    environment = os.environ
    try:
        count = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
        if count == 1:
            return None
        rank, local = int(environment["SLURM_PROCID"]), int(environment["SLURM_LOCALID"])
        port = FIRST_PORT + int(environment.get("SLURM_JOB_ID", "0")) % PORTS
        hosts = environment["SLURM_STEP_NODELIST"]
    except (KeyError, ValueError) as error:
        raise UsageError(f"the environment of SLURM's step is not whole ({error}): start the tasks by srun") from error
    return Place(rank, count, local, environment.get("MASTER_ADDR", _first_host(hosts)), port)


def _first_host(hosts: str) -> str:
    """The first of SLURM's list of hosts: "node[007-009,12]-a,other" is node007-a."""
    found = re.match(r"([^\[,]*)(?:\[(\w+)[^\]]*\])?([^\[,]*)", hosts)
    return "" if found is None else "".join(part or "" for part in found.groups())
