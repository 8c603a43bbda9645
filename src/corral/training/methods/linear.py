"""Linear evaluation of an encoder: a linear head on frozen features, trained on clean or on adversarial images."""

import torch
from torch import Tensor
from torch.nn import functional

from corral.models.modes import eval_mode
from corral.training.features import extract_features, require_finite
from corral.training.methods.base import Context, LabelMethod, Metrics
from corral.training.recipe_methods import LinearConfig


class LinearEvaluation(LabelMethod):
    """Cross-entropy of a linear head; the backbone stays in eval mode and as it is (NCP-ACL, App. A.3).

    "slf" sees the features of the training images, computed once; "alf" those of images that PGD moves against the head
    as it stands.
    """

    def __init__(self, context: Context, config: LinearConfig) -> None:
        super().__init__(context)
        self.config = config
        self.kept: Tensor | None = None
        context.model.backbone.requires_grad_(False)

    def start(self) -> None:
        """Look at the features of the training images before a head is fitted to them."""
        super().start()
        features = extract_features(self.model, self.context.images)
        require_finite(features, "the encoder")
        self.kept = features if self.config.name == "slf" else None

    def loss(self, x: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Metrics]:
        """The batch's cross-entropy."""
        if self.config.name == "slf":
            if self.kept is None:
                self.kept = extract_features(self.model, self.context.images)
            features = self.kept[rows]
        else:
            x = self.adversarial(self.model, x, y, self.config.inner, "cross_entropy")
            with eval_mode(self.model), torch.no_grad():
                features = self.model.features(x)
        logits = self.model.logits_from(features)
        return functional.cross_entropy(logits, y), {"accuracy": (logits.detach().argmax(1) == y).float().mean()}
