"""Nuclear-norm adversarial training, NuAT (Sriramanan et al. 2021): one step, and a norm of the whole batch."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from corral.attacks.balls import ascend, project
from corral.attacks.centred import TrainingLoss
from corral.attacks.objectives import prepare, value_and_gradient
from corral.attacks.state import attacked
from corral.attacks.training_loss import FeaturesObjective
from corral.losses import nuclear_norm
from corral.models import Classifier
from corral.registry import register
from corral.training.methods.base import Context, Method, MethodOptions, Metrics
from corral.training.recipes.base import Config, NotNegative, Positive, ThreatConfig


class OneStep(Config):
    """The adversary: `start_ratio` × eps along random signs, then one step of `step_ratio` × eps, the model in `mode`.

    It climbs the loss of training; with `alternate`, as in the released code, that of every second batch, beginning
    with the first of an epoch, climbs the cross-entropy alone.
    """

    start_ratio: NotNegative = 0.5
    step_ratio: Positive = 1.0
    alternate: bool = True
    mode: Literal["eval", "train"] = "eval"


@register
class NuclearNormTraining(Method):
    """CE(f(X), Y) + weight × ||f(X_adv) - f(X)||_* / n of a batch of n images, whose logits f are rows (the paper's L).

    X_adv is X + eps/2 × random signs after one step of eps up CE(f(X'), Y) + weight × ||f(X') - f(X)||_* / n, back in
    the ball. The weight rises linearly from epoch to epoch, from 0 to its full value at `ramp` × the epochs, as in the
    released code (4.5 after 90 of 100). That code divides by the nominal batch size in a smaller last batch too, and
    takes the adversary's f(X) from batch statistics, its f(X') from running ones; here both are of the adversary's
    `mode`.
    """

    name = "nuat"
    softens = mixes = True

    class Options(MethodOptions):
        """Cross-entropy of clean images plus `nuclear_weight` (the paper's lambda) × the residuals' nuclear norm."""

        nuclear_weight: Positive = 4.5
        ramp: Annotated[float, Field(ge=0, le=1)] = 0.9
        adversary: OneStep = OneStep()

    options: Options

    def __init__(self, context: Context, options: Any) -> None:
        super().__init__(context, options)
        # Epochs that have passed, and steps of this one.
        self.epoch = self.step = 0

    @property
    def weight(self) -> float:
        """The norm's weight in the current epoch."""
        ramp = self.options.ramp * self.context.epochs
        return self.options.nuclear_weight * (min(1.0, self.epoch / ramp) if ramp > 0 else 1.0)

    @property
    def batches_ahead(self) -> bool:
        return True

    def batches(self) -> Iterator[Tensor]:
        self.step = 0
        yield from super().batches()

    def one_step(self, x: Tensor, y: Tensor) -> Tensor:
        """The batch's adversarial images."""
        return self.context.adversaries.once(lambda: self._one_step(x, y, self.attacked_labels(y)))

    def _one_step(self, x: Tensor, y: Tensor, labels: Tensor) -> Tensor:
        """The same, up the cross-entropy of labels (n,) or of shares (n, C)."""
        settings, threat = self.options.adversary, self.context.training_threat
        weight = 0.0 if settings.alternate and self.step % 2 == 0 else self.weight
        mixed = torch.is_autocast_enabled(x.device.type)
        with attacked(self.model, settings.mode), torch.enable_grad(), torch.autocast(x.device.type, enabled=mixed):
            with torch.no_grad():
                clean = self.model(x)

            def climbed(logits: Tensor, _: Tensor) -> Tensor:
                # The norm is shared by the batch: attacks add up the values.
                values = F.cross_entropy(logits, labels, reduction="none")
                return values + weight * nuclear_norm(logits - clean) / len(x) if weight > 0 else values

            drawn = torch.rand(x.shape, generator=self.context.noise, device=x.device, dtype=x.dtype)
            signs = torch.where(drawn < 0.5, 1.0, -1.0).to(x)
            start = ascend(x, signs, settings.start_ratio * threat.eps, threat.norm).clamp(0, 1)
            target = prepare(climbed, self.model, x, y)
            _, _, gradient = value_and_gradient(target, start, torch.arange(len(x), device=x.device))
            moved = ascend(start, gradient, settings.step_ratio * threat.eps, threat.norm)
            return project(moved, x, threat.eps, threat.norm)

    def loss(self, x: Tensor, y: Tensor, indices: Tensor) -> tuple[Tensor, Metrics]:
        x_adv = self.one_step(x, y)
        adversarial, logits = self.model(x_adv), self.model(x)
        cross_entropy = F.cross_entropy(logits, self.targets(y))
        norm = nuclear_norm(adversarial - logits) / len(x)
        metrics = {
            "cross_entropy": cross_entropy.detach(),
            "nuclear_norm": norm.detach(),
            "accuracy": (logits.argmax(1) == y).float().mean(),
            "adversarial_accuracy": (adversarial.argmax(1) == y).float().mean(),
        }
        return cross_entropy + self.weight * norm, metrics

    def after_step(self) -> None:
        self.step += 1

    def after_epoch(self) -> dict[str, float]:
        weight = self.weight
        self.epoch += 1
        return {"nuclear_weight": weight}

    @classmethod
    def training_objective(cls, options: Options, threat: ThreatConfig) -> TrainingLoss:
        """CE(f(x_adv), y) + weight × ||f(x_adv) - f(x)||, at the full weight: the loss of a batch of this image alone.

        The nuclear norm of one row is its length. A batch's would make an image's attack depend on the others.
        """

        def values(model: Classifier, clean: Tensor, features: Tensor, y: Tensor) -> Tensor:
            before, logits = model.logits_from(clean), model.logits_from(features)
            lengths: Tensor = torch.linalg.vector_norm(logits - before, dim=1)
            return F.cross_entropy(logits, y, reduction="none") + options.nuclear_weight * lengths

        return TrainingLoss("nuat", FeaturesObjective(values), (("nuclear_weight", options.nuclear_weight),))

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {"epoch": torch.tensor(self.epoch)}

    def load(self, tensors: dict[str, Tensor]) -> None:
        super().load(tensors)
        found = tensors["epoch"]
        if found.dtype != torch.int64 or found.shape != () or int(found) < 0:
            raise ValueError("epoch must be a whole number, at least 0")
        self.epoch = int(found)
