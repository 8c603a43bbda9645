"""Soft labels: smoothed, mixed of two images, and mixed with what the network says of the class on average."""

from dataclasses import dataclass

import torch
from torch import Tensor

from corral.data import Images, as_float
from corral.models import Classifier
from corral.training.features import evaluating

BATCH = 500


@dataclass
class SoftLabels:
    """What a cross-entropy is taken of in the place of labels.

    Class c stands for the probabilities (1 - a) ((1 - w) e_c + w q_c) + a / C, where e_c is 1 at c and q_c is the mean
    prediction of the class; without q, w is 0. A mixed image has those of its two labels by their shares.

    Attributes:
        smoothing: a in [0, 1) (Szegedy et al. 2016).
        class_weight: w in [0, 1).
        class_means: (C, C) probabilities q, the class's in a row; None as long as none were measured.
        mixed: of the current batch, (n,) the labels of the images that were mixed in, and (n,) their shares in [0, 1];
            None where none were (CutMix, Yun et al. 2019).
    """

    smoothing: float = 0.0
    class_weight: float = 0.0
    class_means: Tensor | None = None
    mixed: tuple[Tensor, Tensor] | None = None

    def of(self, y: Tensor, classes: int) -> Tensor:
        """(n,) labels as they are, or (n, classes) float32 probabilities where anything softens them."""
        known = self.class_weight > 0 and self.class_means is not None
        if self.smoothing == 0 and not known and self.mixed is None:
            return y
        rows = torch.eye(classes, device=y.device)
        if known and self.class_means is not None:
            rows = torch.lerp(rows, self.class_means, self.class_weight)
        rows = rows * (1 - self.smoothing) + self.smoothing / classes
        if self.mixed is None:
            return rows[y]
        others, shares = self.mixed
        return torch.lerp(rows[y], rows[others], shares.unsqueeze(1).to(rows))

    @staticmethod
    def checked(means: Tensor, classes: int, device: torch.device) -> Tensor:
        """Class means of a checkpoint.

        Raises:
            ValueError: not (classes, classes) probabilities.
        """
        square = means.shape == (classes, classes)
        if not square or not bool(torch.isclose(means.sum(1), means.new_ones(classes), atol=1e-3).all()):
            raise ValueError(f"class_means must be ({classes}, {classes}) probabilities")
        return means.to(device)


def class_predictions(model: Classifier, images: Images, classes: int) -> Tensor:
    """(classes, classes) mean softmax outputs of the images of each class, in eval mode; the model's mode is restored.

    Args:
        model: a classifier.
        images: with labels, some of every class.
        classes: C.
    """
    assert images.labels is not None
    device = next(model.parameters()).device
    sums, counts = torch.zeros(classes, classes, device=device), torch.zeros(classes, device=device)
    with evaluating(model):
        for indices, stored in images.each(torch.split(torch.arange(len(images), device=images.device), BATCH)):
            y = images.labels[indices].to(device)
            sums.index_add_(0, y, model(as_float(stored).to(device)).float().softmax(1))
            counts += torch.bincount(y, minlength=classes)
    return sums / counts.unsqueeze(1)
