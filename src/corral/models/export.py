"""A classifier as a file that runs without corral: torch.export, TorchScript or ONNX."""

import importlib.util
import io
import warnings
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from corral.errors import CorralError, UsageError
from corral.files import check_writable, write_atomically
from corral.models.classifier import Classifier
from corral.models.modes import eval_mode

Format = Literal["torch.export", "torchscript", "onnx"]
SUFFIXES: dict[str, Format] = {".pt2": "torch.export", ".ts": "torchscript", ".pt": "torchscript", ".onnx": "onnx"}
# What the logits of an exported model may be off by, relative to the largest.
TOLERANCE = 1e-5
EXAMPLES = 4


def plain(model: Classifier, *, image_size: tuple[int, int] | None = None) -> nn.Module:
    """The classifier in eval mode as a graph of torch's own operations, whatever head and rule it has.

    Args:
        model: a classifier; its mode is restored.
        image_size: (H, W) where the model takes any.

    Returns:
        A module from (N, channels, H, W) images in [0, 1] to (N, C) logits, N free. Nothing in it is a class of corral.

    Raises:
        UsageError: the model takes any image size and none is given.
        CorralError: the model cannot be written as a graph, or its graph gives other logits.
    """
    program, images = _program(model, image_size)
    found: nn.Module = program.module()
    _check(model, found(images), images, "its graph")
    return found


def export_classifier(
    model: Classifier, path: str | Path, *, format: Format | None = None, image_size: tuple[int, int] | None = None
) -> Path:
    """Write a classifier, in eval mode, to a file that its format's own tools run; corral is not needed to read it.

    Args:
        model: a classifier; its mode is restored.
        path: the file; ".pt2" means torch.export, ".pt" and ".ts" TorchScript, ".onnx" ONNX.
        format: in the place of what the ending means.
        image_size: (H, W) where the model takes any.

    Returns:
        The path. Images are (N, channels, H, W) floats in [0, 1], N free; the output is (N, C) logits.

    Raises:
        UsageError: an ending or a format that is not known, or packages that ONNX needs and that are not installed.
        CorralError: the model cannot be written in this format, gives other logits in it, or the file not be written.
    """
    path = Path(path)
    chosen = format or SUFFIXES.get(path.suffix)
    if chosen not in get_args(Format):
        raise UsageError(
            f"{path}: what format is meant? The ending must be one of {', '.join(SUFFIXES)}, or format one of "
            f"{', '.join(get_args(Format))}"
        )
    check_writable(path)
    program, images = _program(model, image_size)
    _check(model, program.module()(images), images, "its graph")
    stream = io.BytesIO()
    try:
        if chosen == "torch.export":
            torch.export.save(program, stream)
        elif chosen == "torchscript":
            with warnings.catch_warnings(), torch.no_grad(), eval_mode(model):
                warnings.simplefilter("ignore")  # shapes are checked in Python, once, while it is traced
                traced: Any = torch.jit.trace(model, images, check_trace=False)  # type: ignore[no-untyped-call]
                _check(model, traced(images[:1].repeat(2, 1, 1, 1)), images[:1].repeat(2, 1, 1, 1), "its trace")
                torch.jit.save(traced, stream)
        else:
            stream.write(_onnx(program))
    except (RuntimeError, torch.onnx.OnnxExporterError) as error:
        raise CorralError(f"{path}: this model cannot be written as {chosen} ({_first_line(error)})") from error
    write_atomically(path, stream.getvalue())
    return path


def _program(model: Classifier, image_size: tuple[int, int] | None) -> tuple[Any, Tensor]:
    """The exported program, and images to compare on."""
    size = model.image_size or image_size
    if size is None:
        raise UsageError("the model takes images of any size: give image_size=(H, W) to export it for one")
    mean = model.normalisation.mean
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(EXAMPLES, len(mean), *size, generator=generator).to(mean)
    try:
        with eval_mode(model), torch.no_grad():
            model(images)  # layers whose weight is a function of parameters keep it from here on
            batch = torch.export.Dim("batch", min=1)
            return torch.export.export(model, (images,), dynamic_shapes=({0: batch},)), images
    except (CorralError, MemoryError):
        raise
    except Exception as error:  # foreign code, under a tracer: anything can come
        raise CorralError(f"the model cannot be written as a graph ({_first_line(error)})") from error


def _check(model: Classifier, found: Tensor, images: Tensor, what: str) -> None:
    with eval_mode(model), torch.no_grad():
        expected = model(images)
    apart = float((found.detach() - expected).abs().max() / expected.abs().max().clamp_min(1))
    if not apart <= TOLERANCE:
        raise CorralError(f"{what} gives logits that are off by {apart:.1e} of the largest; it was not written")


def _onnx(program: Any) -> bytes:
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"ONNX needs the package {missing[0]}: pip install 'corral[onnx]'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own deprecations
        made = torch.onnx.export(program, (), dynamo=True, verbose=False)
    assert made is not None
    content: bytes = made.model_proto.SerializeToString()
    return content


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:200]
