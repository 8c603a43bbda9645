"""Features of a whole image set, in eval mode and without augmentation."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from corral.data import Images
from corral.models import Classifier
from corral.precision import full_float32


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Hold a model in eval mode, without gradients and without TF32; every module's mode is restored."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), full_float32():
            yield
    finally:
        for module, training in flags:
            module.training = training


def extract_features(model: Classifier, images: Images, *, batch_size: int = 250) -> Tensor:
    """(N, d) float32 features of all images, on the images' device; the model's mode is restored."""
    with evaluating(model):
        rows = torch.arange(len(images), device=images.pixels.device)
        return torch.cat([model.features(images.float(part)) for part in torch.split(rows, batch_size)])
