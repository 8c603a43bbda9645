"""A program in a process of its own, seen from the process that asks it: it cannot write, and it ends when we end."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import weakref
from typing import Any

import torch
from torch import Tensor

from corral.errors import CorralError
from corral.processes import how_it_ended
from corral.targets.programs import rights
from corral.targets.programs.wire import WireError, packed, receive, send, unpacked

# Ctrl-C reaches every process of a terminal: this one is ended by the one that started it. What it prints goes nowhere.
# torch asks where temporary and compiled files would go, and makes their folder where it is not there.
BOOT = """
import json, os, runpy, signal, sys, tempfile
signal.signal(signal.SIGINT, signal.SIG_IGN)
given = json.loads(sys.argv[1])
sys.path[:], sys.dont_write_bytecode = given["path"], True
replies = os.dup(1)
os.dup2(2, 1)
tempfile.tempdir = os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.sep
still_open = runpy.run_path(given["rights"])["hold_writes"](given["device"])
from corral.targets.programs.child import main
main(replies, still_open)
"""
# A row of logits an image, and gradients of the size of the images.
MOST_CONTENT = 1 << 31
END_SECONDS, MOST_WORDS = 5.0, 4000


class Process:
    """A child process that holds one program, of a checked archive of `kind` "export" or "torchscript".

    Attributes:
        shape: (C, H, W) that the program was traced for, None for what may vary; None where nothing is known.
        still_open: what this system could not take away from the process, in words.

    Raises:
        CorralError: torch cannot read the archive, or the process ended.
    """

    def __init__(self, name: str, kind: str, archive: bytes, device: torch.device) -> None:
        self.name, self._lock, self._number, self._forgotten = name, threading.Lock(), 0, list[int]()
        self._loaded = False
        path = [os.path.abspath(place) for place in sys.path]
        given = {"path": path, "rights": os.path.abspath(rights.__file__), "device": str(device)}
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-W", "ignore", "-c", BOOT, json.dumps(given)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=os.path.abspath(os.sep),
            )
        except OSError as error:
            raise CorralError(f"{name}: no process for it could be started ({error})") from error
        self._end = weakref.finalize(self, _ended, self._child)
        with self._lock:
            setup = {"kind": kind, "device": str(device), "threads": torch.get_num_threads()}
            header, _ = self._exchange(setup, memoryview(archive))
        if "error" in header:
            reader, again = ("torch.export", "export") if kind == "export" else ("TorchScript", "save")
            header["refused"] = f"{reader} cannot read it ({header['error']}); {again} it again with this torch"
        if "refused" in header:
            self._end()
            raise CorralError(f"{name}: {header['refused']}")
        shape = header.get("shape")
        if shape is not None and not (
            isinstance(shape, list) and all(size is None or type(size) is int for size in shape)
        ):
            self._end()
            raise CorralError(f"{name}: its process answered with a shape that is none")
        self.shape: tuple[int | None, ...] | None = None if shape is None else tuple(shape)
        self.still_open = [str(words)[:60] for words in header.get("open", [])]
        self._loaded = True

    def forward(self, x: Tensor, *, gradient: bool) -> tuple[Tensor, int | None]:
        """Logits of images, and the number of the pass where it has a gradient.

        Raises:
            RuntimeError: the program failed.
            CorralError: the process ended, or the program gave something else than a tensor.
        """
        with self._lock:
            self._number += 1
            number = self._number
            header, content = self._ask({"do": "forward", "number": number, "gradient": gradient}, x)
        if "kind" in header:
            found = f"a {str(header['kind'])[:60]}"
            raise CorralError(
                f"{self.name}: the model returns {found}, expected a tensor of logits; return only the logits"
            )
        return self._tensor(header, content).to(x.device), number if header.get("connected") else None

    def backward(self, number: int, gradient: Tensor) -> Tensor:
        """The vector-Jacobian product of a forward pass; raises as `forward` does."""
        with self._lock:
            header, content = self._ask({"do": "backward", "number": number}, gradient)
        return self._tensor(header, content).to(gradient.device)

    def forget(self, number: int) -> None:
        """Let the process drop the graph of a forward pass, with the next request."""
        self._forgotten.append(number)

    def _ask(self, header: dict[str, Any], tensor: Tensor) -> tuple[dict[str, Any], bytearray]:
        words, content = packed(tensor)
        forget, self._forgotten = self._forgotten, []
        found, numbers = self._exchange(header | words | {"forget": forget}, content)
        if "error" in found:
            raise RuntimeError(str(found["error"])[:MOST_WORDS])
        return found, numbers

    def _tensor(self, header: dict[str, Any], content: bytearray) -> Tensor:
        try:
            return unpacked(header, content)
        except WireError as error:
            self._end()
            raise CorralError(f"{self.name}: its process answered with {error}") from error

    def _exchange(self, header: dict[str, Any], content: memoryview) -> tuple[dict[str, Any], bytearray]:
        """One request and its answer; whatever comes between leaves no process behind that is half asked."""
        child: Any = self._child  # both of its streams are pipes
        try:
            send(child.stdin, header, content)
            return receive(child.stdout, MOST_CONTENT)
        except (EOFError, OSError, ValueError) as error:
            when = "" if self._loaded else " while it was loaded"
            raise CorralError(
                f"{self.name}: the model ended its process{when} ({self._how()}); nothing was measured"
            ) from error
        except WireError as error:
            self._end()
            raise CorralError(f"{self.name}: its process answered with {error}") from error
        except BaseException:
            self._end()
            raise

    def _how(self) -> str:
        """How the process ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(END_SECONDS)
        code = self._child.poll()
        self._end()
        return "it closed its pipes" if code is None else how_it_ended(code)


def _ended(child: subprocess.Popen[bytes]) -> None:
    """End a process, and wait for it."""
    child.kill()
    for stream in (child.stdin, child.stdout):
        # What was not yet written has no reader any more.
        with contextlib.suppress(OSError, ValueError):
            if stream is not None:
                stream.close()
    child.wait()
