"""Work in a process of its own, for parsers that can die: what it printed comes back, or how it ended."""

import contextlib
import os
import signal
import subprocess
import sys
import threading

# What a parser's process begins with: a fault of its own is one line, and memory without end an error and no machine
# that stands still.
LIMITED = """
import resource, sys
_, most = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, most))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
"""


class ProcessDiedError(Exception):
    """A process ended without an answer; the message says how, without the end of a sentence."""


def how_it_ended(code: int) -> str:
    """The exit code of a process, or the signal that ended it, in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {-code}, {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def output_of(code: str, *arguments: str, most: int, seconds: float) -> bytes:
    """What Python code prints, run in a process of its own.

    Args:
        code: Python, which imports what this process can.
        arguments: its `sys.argv[1:]`.
        most: bytes that it may print.
        seconds: how long it may take.

    Raises:
        ProcessDiedError: it could not be started, died, printed more, or took longer.
    """
    # One thread: those of linear algebra would only cost memory.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(place) for place in sys.path)
    try:
        child = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-c", LIMITED + code, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
    except (OSError, ValueError) as error:
        raise ProcessDiedError(f"no process could be started ({error})") from error
    late = threading.Timer(seconds, child.kill)
    try:
        assert child.stdout is not None
        late.start()
        printed = child.stdout.read(most + 1)
        if len(printed) > most:
            raise ProcessDiedError(f"it gave more than {most:,} bytes")
        ended = child.wait()
        if ended != 0:
            slow = not late.is_alive() and ended == -signal.SIGKILL
            raise ProcessDiedError(f"no end after {seconds:g} s" if slow else how_it_ended(ended))
        return printed
    finally:
        late.cancel()
        child.kill()
        with contextlib.suppress(OSError):
            child.stdout.close()  # type: ignore[union-attr]
        child.wait()
