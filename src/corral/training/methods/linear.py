"""Linear evaluation of an encoder: a linear head on frozen features, trained on clean or on adversarial images."""

import warnings
from typing import TYPE_CHECKING, Any

import torch
from pydantic import model_validator
from torch import Tensor
from torch.nn import functional

from corral.distributed import ranks
from corral.models.modes import eval_mode
from corral.registry import register
from corral.training.features import SharedFeatures, require_finite
from corral.training.methods.base import Context, LabelMethod, MethodOptions, Metrics
from corral.training.recipes.base import InnerAttack

if TYPE_CHECKING:
    from corral.training.recipes.recipe import Recipe


class LinearEvaluation(LabelMethod):
    """Cross-entropy of a linear head; the backbone stays in eval mode and as it is (NCP-ACL, App. A.3)."""

    trains = "head"
    continues_from = "encoder"
    softens = True

    def __init__(self, context: Context, options: MethodOptions) -> None:
        super().__init__(context, options)
        context.model.backbone.requires_grad_(False)

    def start(self) -> None:
        """Look at the features of the training images before a head is fitted to them."""
        super().start()
        self.look(SharedFeatures(self.model, self.context.images))

    def look(self, features: SharedFeatures) -> None:
        """Refuse features of the training images that no head can be fitted to."""
        ranks.agreed(lambda: require_finite(features.block, "the encoder"))

    def loss(self, x: Tensor, y: Tensor, indices: Tensor) -> tuple[Tensor, Metrics]:
        logits = self.model.logits_from(self.features(x, y, indices))
        loss = functional.cross_entropy(logits, self.targets(y))
        return loss, {"accuracy": (logits.detach().argmax(1) == y).float().mean()}

    def features(self, x: Tensor, y: Tensor, indices: Tensor) -> Tensor:
        """(n, d) features that the head is trained on, for a batch as `loss` has it."""
        raise NotImplementedError  # abstract


@register
class StandardLinear(LinearEvaluation):
    """SLF: on the features of the training images, computed once."""

    name = "slf"
    kept: SharedFeatures | None = None

    class Options(MethodOptions):
        """None: the images are clean. Recipes of versions before 0.1.0 state an `inner` attack, which nothing read."""

        @model_validator(mode="before")
        @classmethod
        def _earlier(cls, data: Any) -> Any:
            if not isinstance(data, dict) or "inner" not in data:
                return data
            warnings.warn("method 'slf' attacks no images: 'inner' is left out now", FutureWarning, stacklevel=2)
            return {key: value for key, value in data.items() if key != "inner"}

    @classmethod
    def check(cls, recipe: "Recipe") -> None:
        if recipe.data.crop or recipe.data.flip or recipe.data.random_resized_crop:
            raise ValueError(
                "method 'slf' computes features once: leave data.crop and data.random_resized_crop 0, data.flip off"
            )

    def look(self, features: SharedFeatures) -> None:
        """Keep the features too."""
        super().look(features)
        self.kept = features

    def features(self, x: Tensor, y: Tensor, indices: Tensor) -> Tensor:
        """Those that are kept; a resumed run computes them anew."""
        if self.kept is None:
            self.kept = SharedFeatures(self.model, self.context.images)
        return self.kept.rows(indices)


@register
class AdversarialLinear(LinearEvaluation):
    """ALF: on the features of images that PGD moves against the head as it stands."""

    name = "alf"
    attacks_logits = True

    class Options(MethodOptions):
        """The attack on the batch."""

        inner: InnerAttack = InnerAttack(steps=10)

    options: Options

    def features(self, x: Tensor, y: Tensor, indices: Tensor) -> Tensor:
        """Those of the batch's adversarial images."""
        x_adv = self.adversarial(self.model, x, y, self.options.inner, "cross_entropy")
        with eval_mode(self.model), torch.no_grad():
            return self.model.features(x_adv)
