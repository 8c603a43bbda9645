"""Tensors of a part beside those of others: its names with a prefix, and without it again."""

from collections.abc import Mapping

from torch import Tensor


def prefixed(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """All tensors, `prefix` before each name."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def unprefixed(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
