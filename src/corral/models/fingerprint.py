"""A short hash of a model's weights, which every record has."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def fingerprint(model: nn.Module) -> str:
    """A short SHA-256 of a model's parameters and buffers: the same weights, the same fingerprint."""
    return fingerprint_of(model.state_dict())


def fingerprint_of(tensors: Mapping[str, Tensor]) -> str:
    """`fingerprint` of the model whose state these tensors are."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        # As bytes: numpy has no bfloat16.
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
