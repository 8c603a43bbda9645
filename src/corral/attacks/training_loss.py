"""The loss that a model was trained with, as an attack's objective: values of features, beside the clean image's."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from corral.attacks.attack import Setting
from corral.attacks.objectives import ModelObjective, Objective, ObjectiveName, on_features
from corral.models import Classifier
from corral.models.contract import ask

# Of the model, the clean images' features, the adversarial ones' and the labels.
FeatureValues = Callable[[Classifier, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class FeaturesObjective:
    """Values of the features of the adversarial images and, held fixed, of the clean ones; the model's logits decide.

    Attributes:
        values: of a classifier, (n, d) features of the clean images, (n, d) of the adversarial ones and (n,) labels;
            (n,) values to maximise.
    """

    values: FeatureValues

    def bind(self, model: nn.Module, x: Tensor, y: Tensor) -> Objective:
        """As `ModelObjective`; it needs a corral Classifier, for its features.

        Args:
            model: a corral Classifier.
            x: (N, C, H, W) clean images.
            y: (N,) labels.
        """
        if not isinstance(model, Classifier):
            raise ValueError(f"the loss of training needs a corral Classifier, found {type(model).__name__}")
        with torch.no_grad():
            clean = ask(model.features, x)

        return on_features(model, lambda features, indices: self.values(model, clean[indices], features, y[indices]))


@dataclass(frozen=True)
class TrainingLoss:
    """The loss that a model was trained with, as an attack's objective.

    Attributes:
        name, objective: of the values to maximise.
        weights: of its terms, for the record.
    """

    name: str
    objective: ObjectiveName | ModelObjective
    weights: tuple[tuple[str, Setting], ...] = ()


CROSS_ENTROPY = TrainingLoss("cross_entropy", "cross_entropy")
