"""One call of the command line in a process of its own, disturbed at a moment, and what became of it."""

import atexit
import contextlib
import os
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# A call that takes so long hangs.
LONGEST = 600.0
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


@dataclass(frozen=True)
class Ended:
    """How a call ended: exit code (negative for a signal), what it wrote on stderr, seconds, processes left over."""

    code: int
    err: str
    seconds: float
    orphans: list[int]


class Call:
    """A started call.

    Args:
        line: the command line behind `corral`.
        folder: where it runs.
        fresh: start an interpreter, as a shell does. A forked call spares the imports of this process, seconds of
            each; the main process must not have begun a thread.
        first: called in the forked process before the call, such as for its limits.
    """

    def __init__(
        self, line: str, folder: Path, *, fresh: bool = False, first: Callable[[], None] | None = None
    ) -> None:
        self.folder, self.began = folder, time.monotonic()
        handle, name = tempfile.mkstemp()  # not on the disk that is disturbed
        os.close(handle)
        self.stderr = Path(name)
        if fresh:
            with self.stderr.open("wb") as stream:
                self.pid = subprocess.Popen(
                    [sys.executable, "-m", "corral", *shlex.split(line)],
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stream,
                    start_new_session=True,
                    env={**os.environ, **ENVIRONMENT},
                    preexec_fn=first,
                ).pid
        else:
            # What comes before the handlers are there is another fault, "from its start".
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
            self.pid = os.fork()
            if self.pid == 0:
                self._be(line, first, before)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _be(self, line: str, first: Callable[[], None] | None, mask: set[int]) -> None:
        """The forked process, which takes signals, all but those of the mask, once they are handled."""
        try:
            os.setsid()
            atexit._clear()  # what this process leaves behind is not the child's to remove
            os.chdir(self.folder)
            os.dup2(os.open(self.stderr, os.O_WRONLY | os.O_CREAT), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            from corral.cli import main, signals

            signals.install()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            sys.argv = ["corral", *shlex.split(line)]
            if first is not None:
                first()
            main()
            os._exit(0)
        except SystemExit as ended:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):  # of a stream that was disturbed
                    stream.flush()
            os._exit(ended.code if isinstance(ended.code, int) else int(ended.code is not None))
        except BaseException:
            import traceback

            os.write(2, traceback.format_exc().encode())
            os._exit(99)

    def ended(self, disturb: int | None = None, after: float = 0.0) -> Ended:
        """Wait for its end; send a signal after some seconds where one is given."""
        if disturb is not None:
            self._wait(until=self.began + after)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, disturb)
        code = self._wait(until=self.began + LONGEST)
        seconds = time.monotonic() - self.began
        if code is None:
            os.killpg(self.pid, signal.SIGKILL)
            return Ended(-98, "hangs", seconds, [])
        deadline = time.monotonic() + 5
        while (left := _session(self.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        err = self.stderr.read_text(errors="replace")
        self.stderr.unlink()
        return Ended(code, err, seconds, left)

    def _wait(self, until: float) -> int | None:
        if getattr(self, "code", None) is not None:
            return self.code
        while time.monotonic() < until:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
                return self.code
            time.sleep(0.005)
        return None


def _session(leader: int) -> list[int]:
    """The processes of a session that are not its leader, but for the one that collects semaphores."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == leader:
            continue
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if (
                int(fields[3]) == leader
                and fields[0] != "Z"
                and b"resource_tracker" not in (entry / "cmdline").read_bytes()
            ):
                found.append(int(entry.name))
    return found


def file_size(most: int) -> Callable[[], None]:
    """A limit on the size of files, for a call's process."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    return limit
