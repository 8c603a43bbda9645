"""Processes that work for this one: started whole, and never left behind."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection
from pathlib import Path
from types import ModuleType

from corral.errors import CorralError


@contextmanager
def worker_pool(count: int, place: Path) -> Iterator[ProcessPoolExecutor]:
    """A pool of so many processes, which end with the block and with this process; submit inside `started_whole`.

    Raises:
        CorralError: one of them was ended from outside; the message names `place`, where they work.
    """
    # Spawned, not forked: torch's thread pools do not survive a fork.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(count, mp_context=context, initializer=begin_worker) as pool, ended_on_failure():
            yield pool
    except BrokenProcessPool as error:
        raise CorralError(
            f"{place}: a worker process was ended from outside (out of memory?); the same command goes on, "
            "with fewer --workers"
        ) from error


@contextmanager
def started_whole(pool: ProcessPoolExecutor | None = None) -> Iterator[None]:
    """A block that starts processes, a pool's by giving it jobs: none is left half started, and Ctrl-C, which reaches
    all, ends the first.

    What is blocked here is blocked in the processes too; `begin_worker` lets SIGTERM pass. They do not run the script
    that this process was started with, which would need `if __name__ == "__main__":`.
    """
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        with _signals_blocked():
            yield
            # The pool's thread looks which processes it watches over before the last job's is started, and would not
            # see that one end (CPython 3.11): one more job has it look again.
            if pool is not None:
                pool.submit(int)
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _signals_blocked() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin_worker() -> None:
    """Begin a spawned process that ends when the one that started it does, however it does.

    It is called, and this file read, before anything that takes long to import.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


@contextmanager
def ended_on_failure() -> Iterator[None]:
    """End the processes that were started in the block if it fails: the pool would wait for their work."""
    before = set(multiprocessing.active_children())
    try:
        yield
    except BaseException:
        for child in set(multiprocessing.active_children()) - before:
            child.kill()
        raise
