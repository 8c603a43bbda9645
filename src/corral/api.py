"""`corral.load`: a run as a classifier."""

from pathlib import Path

import torch

from corral.models import Classifier
from corral.models.backbones import BackboneLike
from corral.training import load_model


def load(run: str | Path, *, device: str | torch.device = "cpu", backbone: BackboneLike | None = None) -> Classifier:
    """The classifier of a finished run, in eval mode: float [0, 1] NCHW images in, (N, C) logits out.

    Args:
        run: a run folder or its model.safetensors.
        device: where the model goes.
        backbone: the run's own, where it was a user's and is not imported here: "file.py:function", a module, or a
            function that makes one. Its weights are replaced by the run's.

    Raises:
        CorralError: no such run, an unfinished one, a truncated or foreign file, or a backbone that is not known here.
    """
    return load_model(run, device=device, backbone=backbone)[0]
