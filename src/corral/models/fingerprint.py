"""A short hash of a model's weights, which every record has."""

import hashlib

from torch import nn


def fingerprint(model: nn.Module) -> str:
    """A short SHA-256 of a model's parameters and buffers: the same weights, the same fingerprint."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
