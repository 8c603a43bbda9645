"""What is measured of a model on held-out images after each epoch: cheap, the same for every method, never a result."""

import torch

from corral.attacks import pgd
from corral.data import Images
from corral.models import Classifier
from corral.training.features import evaluating
from corral.training.recipes.base import ThreatConfig

# Validation's own attack.
STEPS, BATCH = 10, 500


def accuracies(model: Classifier, images: Images, threat: ThreatConfig) -> dict[str, float]:
    """Clean accuracy, and accuracy under PGD-10 from a fixed random start, as shares.

    Args:
        model: its mode is restored.
        images: held-out ones with their labels.
        threat: norm and radius.
    """
    device, labels = images.pixels.device, images.labels
    assert labels is not None
    generator = torch.Generator(device).manual_seed(0)
    clean = robust = 0
    with evaluating(model):
        for indices in torch.split(torch.arange(len(images), device=device), BATCH):
            x, y = images.float(indices), labels[indices]
            clean += int((model(x).argmax(1) == y).sum())
            if threat.eps > 0:
                x = pgd(
                    model,
                    x,
                    y,
                    eps=threat.eps,
                    norm=threat.norm,
                    steps=STEPS,
                    step_size=2.5 * threat.eps / STEPS,
                    generator=generator,
                )
            robust += int((model(x).argmax(1) == y).sum())
    return {"validation_clean": clean / len(images), "validation_pgd": robust / len(images)}
