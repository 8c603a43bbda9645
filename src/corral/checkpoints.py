"""Checkpoints: one safetensors file each, tensors and JSON together, so that a kill cannot tear them apart."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from corral.errors import CorralError
from corral.files import write_atomically
from corral.reading import check_file, first_line, parse_json

METADATA_KEY, CHECKSUM_KEY = "corral", "sha256"
REMEDY = "restore it or train again"


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors and JSON-ready metadata as one safetensors file, atomically.

    Raises:
        CorralError: the file cannot be written; what was there before is untouched.
    """
    ready = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(metadata)
    write_atomically(path, save(ready, {METADATA_KEY: text, CHECKSUM_KEY: _checksum(ready, text)}))


def _checksum(tensors: Mapping[str, Tensor], metadata: str) -> str:
    """SHA-256 of metadata and tensors: a bit that flips in a weight leaves the file well-formed."""
    digest = hashlib.sha256(metadata.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """CPU tensors by name and corral's metadata (None without) of any safetensors file; nothing is unpickled.

    Raises:
        CorralError: missing, truncated, damaged or foreign; one line naming file and remedy.
    """
    if not path.exists():
        raise CorralError(f"{path}: no such checkpoint; make one with `corral train`")
    check_file(path, remedy=REMEDY)
    try:
        with safe_open(str(path), framework="pt") as archive:
            header = archive.metadata() or {}
            metadata = parse_json(header.get(METADATA_KEY, "null"))
            tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise CorralError(f"{path}: truncated or not a safetensors file ({first_line(error)}); {REMEDY}") from error
    # Files written before 0.1.0 was released have no checksum; other people's may mean something else by the word.
    checked = METADATA_KEY in header and CHECKSUM_KEY in header
    if checked and header[CHECKSUM_KEY] != _checksum(tensors, header[METADATA_KEY]):
        raise CorralError(f"{path}: damaged, its contents do not match their checksum; {REMEDY}")
    return tensors, metadata


def checkpoint_header(path: Path) -> dict[str, Any]:
    """The metadata of a safetensors file of corral's, unchecked; its tensors are not read; {} of other files.

    Raises:
        CorralError: no regular file, or one larger than memory.
    """
    check_file(path, remedy=REMEDY)
    try:
        with safe_open(str(path), framework="pt") as archive:
            metadata = parse_json((archive.metadata() or {}).get(METADATA_KEY, "null"))
    except (SafetensorError, OSError, ValueError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def checkpoint_kind(path: Path) -> str | None:
    """What a safetensors file of corral's holds, by its header alone; None of other files; raises as that."""
    kind = checkpoint_header(path).get("kind")
    return kind if isinstance(kind, str) else None


def read_checkpoint(path: Path, *, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """CPU tensors by name and the metadata of a file of `write_checkpoint`, of a kind ("model" or "training").

    Raises:
        CorralError: missing, truncated, damaged, foreign, or of another kind; one line naming file and remedy.
    """
    tensors, metadata = read_tensors(path)
    if not isinstance(metadata, dict) or metadata.get("kind") != kind:
        found = metadata.get("kind") if isinstance(metadata, dict) else "no corral metadata"
        raise CorralError(f"{path}: not a corral {kind} file (found {found}); give a run folder or its {kind} file")
    return tensors, metadata


def load_tensors(
    module: nn.Module, tensors: Mapping[str, Tensor], path: Path, *, remedy: str = "train the run again"
) -> None:
    """Load all of a module's state; messages name the file that it is of, the first wrong tensor and the remedy.

    Raises:
        CorralError: a tensor is missing, extra, of another shape or type, not finite, or refused by its module.
    """
    own = module.state_dict()
    for name in sorted(own.keys() ^ tensors.keys()):
        raise CorralError(f"{path}: tensor {name} is {'missing' if name in own else 'unexpected'}; {remedy}")
    for name, tensor in tensors.items():
        if own[name].shape != tensor.shape:
            expected, found = tuple(own[name].shape), tuple(tensor.shape)
            raise CorralError(f"{path}: tensor {name} has shape {found}, expected {expected}; {remedy}")
        if own[name].dtype != tensor.dtype:
            raise CorralError(f"{path}: tensor {name} is {tensor.dtype}, expected {own[name].dtype}; {remedy}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CorralError(f"{path}: tensor {name} holds NaN or infinite values; {remedy}")
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:  # a module's own conditions, such as a cluster head's on its classes
        raise CorralError(f"{path}: {str(error).splitlines()[-1].strip()}; {remedy}") from error


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's per-parameter state as named tensors; groups' numbers come from the recipe."""
    state: dict[int, dict[str, Tensor]] = optimiser.state_dict()["state"]
    return {
        f"{index}.{name}": value for index, entry in state.items() for name, value in entry.items() if value is not None
    }


def load_optimiser(
    optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor], *, names: frozenset[str], moved: bool
) -> None:
    """Restore what `optimiser_tensors` gave into an optimiser made for the same parameters.

    Args:
        optimiser: takes the state.
        tensors: the state, named INDEX.NAME.
        names: the state that this kind of optimiser has of each parameter it has moved.
        moved: whether it has made a step, so that there must be state.

    Raises:
        ValueError: a tensor belongs to no parameter, has another shape than its parameter, or is not finite; the state
            is another optimiser's, or missing.
    """
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        index = int(number)
        if not 0 <= index < len(parameters) or value.shape not in (parameters[index].shape, torch.Size()):
            raise ValueError(f"optimiser state {key} of shape {tuple(value.shape)} fits no parameter")
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"optimiser state {key} holds NaN or infinite values")
        state.setdefault(index, {})[name] = value
    for index, entry in state.items():
        if entry.keys() != names:
            found, expected = (", ".join(sorted(given)) or "nothing" for given in (entry, names))
            raise ValueError(f"optimiser state of parameter {index} is {found}, this optimiser keeps {expected}")
    if moved and names and not state:
        raise ValueError("the optimiser's state is missing")
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def unprefixed(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
