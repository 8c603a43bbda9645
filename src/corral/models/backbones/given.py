"""Backbones that a user gives to a call: the name that a run states of them, and finding them by it again."""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

from torch import nn

from corral.errors import UsageError
from corral.models.backbones.base import BACKBONES
from corral.registry import is_target, lasting

PREFIX = "given-"
# What a user gives: a name or a target, a module, or a function or class that makes one.
BackboneLike = str | nn.Module | Callable[..., nn.Module]


def named_backbone(backbone: BackboneLike) -> str:
    """The name that a recipe states for a backbone, by which it is found in this process.

    A function or class that another process can import too gives its target, "package.module:function" or
    "file.py:function"; anything else "given-CLASS-12345678", a hash of the module's layers.

    Args:
        backbone: a registered name, a target, a module, or a function or class that makes one.

    Raises:
        UsageError: none of these.
        CorralError: the code of a target failed.
    """
    if isinstance(backbone, str):
        BACKBONES.find(backbone)
        return lasting(backbone) if is_target(backbone) else backbone
    if not isinstance(backbone, nn.Module) and not callable(backbone):
        raise UsageError(
            f"a backbone is a name, file.py:function, a torch.nn.Module or a function that makes one, found a "
            f"{type(backbone).__name__}"
        )
    name = _importable(backbone) or _hashed(backbone)
    BACKBONES.hold(name, backbone)
    return name


def bring_backbone(recorded: str, backbone: BackboneLike) -> None:
    """Let a run's recorded name stand for a backbone that the user gives, in this process.

    Raises:
        UsageError: as `named_backbone`.
    """
    name = named_backbone(backbone)
    if name != recorded:
        BACKBONES.hold(recorded, BACKBONES.find(name) if isinstance(backbone, str) else backbone)


def missing_words(name: str) -> str:
    """What brings a recorded backbone that is not known in this process."""
    if name.startswith(PREFIX):
        return (
            "it was given as an object: give it again, by `corral.load(run, backbone=...)` or --backbone file.py:name"
        )
    return f"if you trust this code, name it: --backbone {name} (backbone=...), or `corral --plugin`"


def _importable(backbone: object) -> str | None:
    """The target of a function or class at the top of a module or of a file; None of anything else."""
    name, module = getattr(backbone, "__qualname__", ""), sys.modules.get(getattr(backbone, "__module__", ""))
    if isinstance(backbone, nn.Module) or module is None or getattr(module, name, None) is not backbone:
        return None
    file = getattr(module, "__file__", None)
    if module.__name__ == "__main__" or module.__name__.startswith("corral_plugin_"):
        return f"{Path(file).resolve()}:{name}" if file and file.endswith(".py") else None
    return f"{module.__name__}:{name}"


def _hashed(backbone: object) -> str:
    """A name for what no other process can import."""
    if isinstance(backbone, nn.Module):
        words = [repr(backbone), *(f"{key} {tuple(tensor.shape)}" for key, tensor in backbone.state_dict().items())]
        kind = type(backbone).__name__
    else:
        kind = getattr(backbone, "__name__", type(backbone).__name__).strip("<>")
        words = [getattr(backbone, "__module__", ""), getattr(backbone, "__qualname__", "")]
    return f"{PREFIX}{kind}-{hashlib.sha256(' '.join(words).encode()).hexdigest()[:8]}"
