"""Reading processes that are forked from this one, which has imported torch already: a hundred a second, not one."""

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

from corral.targets.programs import process

STREAMS = ((0, "r"), (1, "w"), (2, "w"))


class Forked:
    """What `corral.targets.programs.process` asks of `subprocess.Popen`, of a copy of this process.

    The copy runs what the new interpreter would: the same text, with the same argument, streams and folder.
    """

    def __init__(self, command: list[str], *, cwd: str, **streams: int) -> None:
        assert streams == {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        (taken, given), (answers, replies) = os.pipe(), os.pipe()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                signal.alarm(0)
                for source, target in ((taken, 0), (replies, 1), (os.open(os.devnull, os.O_RDWR), 2)):
                    os.dup2(source, target)
                os.closerange(3, 256)
                os.chdir(cwd)
                sys.stdin, sys.stdout, sys.stderr = (os.fdopen(fd, mode, closefd=False) for fd, mode in STREAMS)
                warnings.simplefilter("ignore")  # as the new interpreter is told to
                sys.argv = command[-2:]
                exec(command[-2], {"__name__": "__main__"})
                code = 0
            except SystemExit as ending:
                code = ending.code if isinstance(ending.code, int) else 1
            finally:
                os._exit(code)
        os.close(taken)
        os.close(replies)
        self.stdin: Any = os.fdopen(given, "wb")
        self.stdout: Any = os.fdopen(answers, "rb")

    def poll(self) -> int | None:
        """The exit code, if it ended."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = None if pid == 0 else os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float = 60.0) -> int:
        """The exit code, when it ended."""
        ends = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > ends:
                raise subprocess.TimeoutExpired("forked", timeout)
            time.sleep(0.002)
        return code

    def kill(self) -> None:
        """End it."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


@contextmanager
def forked() -> Iterator[None]:
    """Start programs' processes by a fork, of one thread: a copy has none of the others, and would wait for them."""
    names = {name: getattr(subprocess, name) for name in ("PIPE", "DEVNULL", "TimeoutExpired")}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with patch.object(process, "subprocess", SimpleNamespace(Popen=Forked, **names)):
            yield
    finally:
        torch.set_num_threads(threads)
