"""Processes that read images ahead: a torch DataLoader whose requests are known only as they are asked for."""

import multiprocessing
import os
import shutil
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from corral.devices import cores
from corral.errors import CorralError, UsageError
from corral.processes import how_it_ended
from corral.workers import begin_worker, started_whole

T = TypeVar("T")
# What sets the number of processes, and the most there are without it.
VARIABLE, MOST = "CORRAL_WORKERS", 16
# Results that a process has ready at most, and where they wait.
AHEAD, SHARED = 2, "/dev/shm"
# What the system may take to tell that a process ended.
ENDING_SECONDS = 1.0
SIGCHLD = getattr(signal, "SIGCHLD", None)


def worker_count(result_bytes: int) -> int:
    """Processes that read images: as the environment variable says, else one a core of this rank, at most 16.

    Fewer where the system has not the shared memory for results of so many bytes.

    Raises:
        UsageError: the variable holds no number.
        CorralError: not even one process has the shared memory it needs.
    """
    text = os.environ.get(VARIABLE, "")
    if text and not text.isdecimal():
        raise UsageError(f"{VARIABLE} must be a number of processes, such as 8 (0 reads in this one), found {text!r}")
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "1")  # torchrun's: its ranks share the cores
    wanted = int(text) if text else min(MOST, max(1, cores() // max(1, int(ranks) if ranks.isdecimal() else 1)))
    if not wanted or not os.path.isdir(SHARED):
        return wanted
    free = shutil.disk_usage(SHARED).free
    possible = (free // max(result_bytes, 1) - 1) // (AHEAD + 1)
    if possible < 1:
        raise CorralError(
            f"{SHARED}: {free:,} bytes of shared memory are free, processes that read images need "
            f"{(AHEAD + 2) * result_bytes:,}: give the container more (docker run --shm-size=1g), or set {VARIABLE}=0"
        )
    return min(wanted, possible)


@dataclass
class _Failed:
    """What a process answers where its work failed with an error of this package."""

    error: CorralError


class _Work(Dataset[Any]):
    """A function as the data set of a loader: its items are the answers to requests."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __getitem__(self, request: Any) -> Any:
        try:
            return self.function(request)
        except CorralError as error:
            return _Failed(error)


class _Requests:
    """What a loader asks for its requests, in the first process: a few ahead of the answers."""

    def __init__(self) -> None:
        self.waiting: Iterator[Any] = iter(())

    def __iter__(self) -> Iterator[Any]:
        return self.waiting


class Workers:
    """Calls a function of requests in processes of its own and gives the answers in their order.

    The processes end with the iteration, or with this one, however it ends.

    Args:
        function: of a request; both are sent to the processes. A `CorralError` of it is raised here.
        what: whose images are read, for messages.
        result_bytes: of an answer, at most.
        pinned: put tensors into memory that a GPU copies from while it computes.
        lasting: keep the processes for further requests.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        *,
        what: str,
        result_bytes: int,
        pinned: bool = False,
        lasting: bool = False,
    ) -> None:
        self.function, self.what, self.result_bytes = function, what, result_bytes
        self.pinned, self.lasting = pinned, lasting
        self.requests = _Requests()
        self.loader: DataLoader[Any] | None = None
        self.children: set[Any] = set()

    def map(self, requests: Iterable[Any]) -> Iterator[Any]:
        """The answers to requests, in their order; requests are taken from the iterable in this process.

        Raises:
            CorralError: that of the function, or a process was ended from outside.
        """
        self.requests.waiting = iter(requests)
        answers = None
        try:
            while True:
                try:
                    answers = self._begun() if answers is None else answers
                    answer = next(answers)
                except StopIteration:
                    break
                except (RuntimeError, OSError, EOFError) as error:  # EOFError: of what a process had yet to hand over
                    self._tell_ended(error)
                    raise
                if isinstance(answer, _Failed):
                    raise answer.error
                yield answer
        except BaseException:
            self.loader = None
            raise
        finally:
            answers = None  # which ends the processes, where they are not kept
            if not self.lasting:
                self.loader = None

    def _begun(self) -> Iterator[Any]:
        before = set(multiprocessing.active_children())
        with _undisturbed(), started_whole():
            if self.loader is None:
                self.loader = self._made()
            answers = iter(self.loader)
        self.children |= set(multiprocessing.active_children()) - before
        return answers

    def _made(self) -> DataLoader[Any]:
        count = worker_count(self.result_bytes)
        self.children = set()
        options: dict[str, Any] = {}
        if count:
            options = {"prefetch_factor": AHEAD, "persistent_workers": self.lasting, "worker_init_fn": _begin}
            # What is opened need not be sent, and nothing is imported again.
            options["multiprocessing_context"] = "fork" if sys.platform == "linux" else None
        return DataLoader(
            _Work(self.function),
            batch_size=None,
            sampler=self.requests,
            num_workers=count,
            collate_fn=_as_it_is,
            pin_memory=self.pinned,
            generator=torch.Generator(),  # else a number would be drawn from the global one
            **options,
        )

    def _tell_ended(self, error: Exception) -> None:
        """Raise one line where a process was ended."""
        for child in self.children:
            child.join(ENDING_SECONDS / len(self.children))
        ended = [child.exitcode for child in self.children if child.exitcode]
        if ended:
            raise CorralError(
                f"{self.what}: a process that reads its images ended ({how_it_ended(ended[0])}), as where memory runs "
                f"out; set {VARIABLE} to fewer than {len(self.children)}"
            ) from error


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A block in which torch's loader starts processes: without its handler, which raises wherever this process is.

    The loader notices a process that ended all the same, where it waits for it.
    """
    main = SIGCHLD is not None and threading.current_thread() is threading.main_thread()
    before = signal.getsignal(SIGCHLD) if main and SIGCHLD is not None else None
    try:
        with warnings.catch_warnings():  # of a fork beside threads: the processes use none of them
            warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
            warnings.filterwarnings("ignore", ".*worker processes", UserWarning)
            yield
    finally:
        if before is not None and SIGCHLD is not None:
            signal.signal(SIGCHLD, before)


def _begin(_: int) -> None:
    """In a process: end when told to or left alone, and say nothing: the first process speaks."""
    for number in (signal.SIGTERM, SIGCHLD):
        if number is not None:
            signal.signal(number, signal.SIG_DFL)
    begin_worker()


def _as_it_is(answer: T) -> T:
    return answer
