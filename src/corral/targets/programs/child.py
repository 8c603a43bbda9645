"""The process that loads and runs a program: it has given up its rights, and answers over two pipes until they close.

Started by `process`. Requests are one at a time: "forward" gives logits of images, "backward" the gradient of an
earlier forward pass at its images. A reader thread ends the process as soon as the other side is gone.
"""

import io
import os
import queue
import threading
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from corral.errors import CorralError
from corral.precision import full_float32
from corral.targets.programs.compiled import CompiledProgram
from corral.targets.programs.rights import hold_reads
from corral.targets.programs.wire import packed, receive, send, unpacked

# The other side is trusted; images and archives are as large as they are.
ANY_SIZE = 1 << 62
MOST_WORDS = 4000

Requests = queue.SimpleQueue[tuple[dict[str, Any], bytearray]]


def main(replies: int, still_open: list[str]) -> None:
    """Receive a program on standard input, load it, and answer requests about it on the file descriptor `replies`.

    `still_open` is what `hold_writes` could not take away.
    """
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(replies, "wb")
    setup, archive = receive(requests, ANY_SIZE)
    device = torch.device(setup["device"])
    torch.set_num_threads(setup["threads"])
    torch.manual_seed(0)
    try:
        _warm_up(device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch without this device
        send(answers, {"refused": f"its process cannot use {device} ({_words(error)}); give --device cpu"})
        return
    still_open = [*still_open, *hold_reads(setup["device"])]
    waiting: Requests = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests, waiting), daemon=True).start()
    with full_float32():
        try:
            program, shape = _loaded(setup["kind"], bytes(archive), device)
        except CorralError as error:
            send(answers, {"refused": str(error)})
            return
        except Exception as error:  # a foreign file can fail anywhere in torch's readers
            send(answers, {"error": f"{type(error).__name__}: {_words(error)}"})
            return
        send(answers, {"shape": shape, "open": still_open})
        _Service(program, device).serve(waiting, answers)


def _warm_up(device: torch.device) -> None:
    """A pass and its gradient through what loads libraries late, while they can still be read from anywhere."""
    layer = nn.Conv2d(1, 2, 3).to(device)
    torch.linalg.norm(
        layer(torch.rand(1, 1, 8, 8, device=device)).flatten(1) @ torch.rand(72, 2, device=device)
    ).backward()


def _loaded(kind: str, archive: bytes, device: torch.device) -> tuple[CompiledProgram, tuple[int | None, ...] | None]:
    """The program of a checked archive and the (C, H, W) that it was traced for, None where unknown or varying."""
    if kind == "torchscript":
        script: nn.Module = torch.jit.load(io.BytesIO(archive), map_location=device)  # type: ignore[no-untyped-call]
        # A frozen program has no mode left to set.
        if hasattr(script, "training"):
            script.eval()
        return CompiledProgram(script), None
    program = torch.export.load(io.BytesIO(archive))
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, str(device))
    shape = _traced_shape(program)
    return CompiledProgram(program.module(), batch_size=shape[0]), shape[1:]


def _traced_shape(program: Any) -> tuple[int | None, ...]:
    """(N, C, H, W) that the program was traced for, None where it may vary."""
    inputs = program.graph_signature.user_inputs
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    found = [nodes[name].meta.get("val") for name in inputs if name in nodes]
    if len(inputs) != 1 or len(found) != 1 or not isinstance(found[0], torch.Tensor):
        raise CorralError(f"the program takes {len(inputs)} inputs, expected one batch of images; wrap it")
    return tuple(int(size) if isinstance(size, int) else None for size in found[0].shape)


def _read(requests: BinaryIO, waiting: Requests) -> None:
    try:
        while True:
            waiting.put(receive(requests, ANY_SIZE))
    except EOFError:
        os._exit(0)


def _words(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")[:MOST_WORDS]


class _Service:
    """Answers about one program; it holds the graph of every forward pass until it is told that none needs it."""

    def __init__(self, program: nn.Module, device: torch.device) -> None:
        self.program, self.device = program, device
        self.passes: dict[int, tuple[Tensor, Tensor]] = {}

    def serve(self, waiting: Requests, answers: BinaryIO) -> None:
        """Answer requests without end."""
        while True:
            header, content = waiting.get()
            for number in header["forget"]:
                self.passes.pop(number, None)
            try:
                tensor = unpacked(header, content).to(self.device)
                found = self._forward(header, tensor) if header["do"] == "forward" else self._backward(header, tensor)
            except Exception as error:  # foreign code: anything can come
                send(answers, {"error": _words(error)})
                continue
            send(answers, *found)

    def _forward(self, header: dict[str, Any], x: Tensor) -> tuple[dict[str, Any], memoryview]:
        with torch.set_grad_enabled(header["gradient"]):
            output: Any = self.program(x.requires_grad_() if header["gradient"] else x)
        if not isinstance(output, Tensor):
            return {"kind": type(output).__name__}, memoryview(b"")
        if output.requires_grad:
            self.passes[header["number"]] = x, output
        words, content = packed(output)
        return words | {"connected": output.requires_grad}, content

    def _backward(self, header: dict[str, Any], gradient: Tensor) -> tuple[dict[str, Any], memoryview]:
        x, output = self.passes[header["number"]]
        (found,) = torch.autograd.grad(output, x, gradient, retain_graph=True, allow_unused=True)
        return packed(torch.zeros_like(x) if found is None else found)
