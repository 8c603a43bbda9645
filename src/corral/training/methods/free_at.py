"""Free adversarial training (Shafahi et al. 2019)."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from corral.attacks.balls import ascend, project
from corral.registry import register
from corral.training.methods.base import Context, LabelMethod, MethodOptions, Metrics
from corral.training.recipes.base import Count, Positive

if TYPE_CHECKING:
    from corral.training.recipes.recipe import Recipe


@register
class FreeAdversarialTraining(LabelMethod):
    """Cross-entropy of x + delta, each batch `replays` times; delta climbs the gradient of the same backward pass.

    Algorithm 1 of the paper: delta begins at 0, is kept from replay to replay *and* from batch to batch (entry i goes
    to a batch's i-th image), and moves by one step of `step_ratio` × eps after each pass. One pass updates weights and
    delta, so a replay costs what a nominal pass costs: an epoch costs `replays` nominal ones, and PGD training with
    k steps costs k + 1.
    """

    name = "free-at"
    softens = True

    class Options(MethodOptions):
        """Free adversarial training (Shafahi et al. 2019, Algorithm 1), linear head.

        Every batch is shown `replays` times in a row, so an epoch costs that many nominal epochs: divide the epochs by
        it. One step of the adversary is `step_ratio` × eps.
        """

        replays: Count = 8
        step_ratio: Positive = 1.0

    options: Options

    @classmethod
    def check(cls, recipe: "Recipe") -> None:
        if recipe.training.perturbation is not None:
            raise ValueError("method 'free-at' moves images by its one backward pass: leave training.perturbation out")

    def __init__(self, context: Context, options: Options) -> None:
        super().__init__(context, options)
        self.replays = options.replays
        images = context.images
        # A single row left over joins the last batch, which is then one larger.
        size = min(context.batch_size + 1, len(images))
        self.delta = torch.zeros(size, *images.shape, device=images.device)
        self.clean = self.attacked = self.delta[:0]
        self.replay = 0

    def batches(self) -> Iterator[Tensor]:
        """Uniform batches, each `replays` times in a row."""
        for indices in super().batches():
            for replay in range(self.replays):
                self.replay = replay
                yield indices

    def loss(self, x: Tensor, y: Tensor, indices: Tensor) -> tuple[Tensor, Metrics]:
        """Cross-entropy of the batch moved by delta; a replay sees the images of its batch's first showing."""
        if self.replay == 0:
            self.clean = x
        delta = self.delta[: len(x)]
        threat = self.context.training_threat
        self.attacked = project(self.clean + delta, self.clean, threat.eps, threat.norm).requires_grad_(True)
        logits = self.model(self.attacked)
        loss = F.cross_entropy(logits, self.targets(y))
        return loss, {"adversarial_accuracy": (logits.argmax(1) == y).float().mean()}

    def after_step(self) -> None:
        threat, gradient = self.context.training_threat, self.attacked.grad
        assert gradient is not None
        with torch.no_grad():
            step = self.options.step_ratio * threat.eps
            moved = project(ascend(self.attacked, gradient, step, threat.norm), self.clean, threat.eps, threat.norm)
            self.delta[: len(moved)] = moved - self.clean

    def tensors(self) -> dict[str, Tensor]:
        return {"delta": self.delta}

    def load(self, tensors: dict[str, Tensor]) -> None:
        if tensors["delta"].shape != self.delta.shape:
            raise ValueError(f"delta must be {tuple(self.delta.shape)}, found {tuple(tensors['delta'].shape)}")
        self.delta = tensors["delta"].to(self.delta)
