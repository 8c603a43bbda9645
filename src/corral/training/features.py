"""Features of a whole image set, in eval mode and without augmentation."""

import torch
from torch import Tensor

from corral.data import Images
from corral.models import Classifier
from corral.precision import full_float32


def extract_features(model: Classifier, images: Images, *, batch_size: int = 1000) -> Tensor:
    """(N, d) float32 features of all images, on the images' device; the model's mode is restored."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), full_float32():
            device = images.pixels.device
            rows = torch.arange(len(images), device=device)
            return torch.cat([model.features(images.float(part)) for part in torch.split(rows, batch_size)])
    finally:
        for module, training in flags:
            module.training = training
