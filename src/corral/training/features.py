"""Features of a whole image set, in eval mode and without augmentation."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from corral.data import Images
from corral.errors import CorralError
from corral.models import Classifier
from corral.models.modes import eval_mode
from corral.precision import full_float32

ANOTHER = "name another encoder, or train it again at a lower learning rate"


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Hold a model in eval mode, without gradients and without TF32; every module's mode is restored."""
    with eval_mode(model), torch.no_grad(), full_float32():
        yield


def extract_features(model: Classifier, images: Images, *, batch_size: int = 250) -> Tensor:
    """(N, d) float32 features of all images, on the model's device; the model's mode is restored."""
    with evaluating(model):
        rows = torch.arange(len(images), device=images.pixels.device)
        device = next(model.parameters()).device
        parts = (images.float(part).to(device) for part in torch.split(rows, batch_size))
        return torch.cat([model.features(part) for part in parts])


def require_finite(features: Tensor, encoder: str, *, remedy: str = ANOTHER) -> None:
    """Refuse features that cannot be measured.

    Args:
        features: (N, d).
        encoder: what made them, for the message: "training.start".
        remedy: what to do about it, for the message.

    Raises:
        CorralError: a feature is not finite, or so large that its square is not.
    """
    if not bool(torch.linalg.vector_norm(features).isfinite()):
        raise CorralError(f"{encoder}: the features are not finite or too large to measure: {remedy}")


def require_differing(features: Tensor, encoder: str) -> None:
    """Refuse features that a second stage could learn nothing from.

    Args:
        features: (N, d) of different images.
        encoder: what made them, for the message: "training.start".

    Raises:
        CorralError: the features cannot be measured, or all images have the same.
    """
    require_finite(features, encoder)
    if len(features) > 1 and bool((features == features[:1]).all()):
        raise CorralError(f"{encoder}: all images have the same features, the encoder tells none apart: name another")
