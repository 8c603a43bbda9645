"""`corral.load`: a run as a classifier."""

from pathlib import Path

import torch

from corral.models import Classifier
from corral.training import load_model


def load(run: str | Path, *, device: str | torch.device = "cpu") -> Classifier:
    """The classifier of a finished run, in eval mode: float [0, 1] NCHW images in, (N, C) logits out.

    Args:
        run: a run folder or its model.safetensors.
        device: where the model goes.

    Raises:
        UsageError: no such run.
        CorralError: an unfinished run, or a truncated or foreign file.
    """
    return load_model(run, device=device)[0]
