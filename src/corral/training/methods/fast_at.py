"""Fast adversarial training (FAST-AT, Wong et al. 2020): one step from a random start."""

from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from corral.attacks import pgd
from corral.data import Images, stratified_subset
from corral.registry import register
from corral.training.features import accuracies, accuracy
from corral.training.ingredients.collapse import collapsed, fallen
from corral.training.methods.at import AdversarialTraining
from corral.training.methods.base import Context
from corral.training.recipes.base import Count, InnerAttack, Positive

# Images whose accuracies are compared after every epoch, at most: their standard error is 0.022 at worst.
WATCHED = 500


class OneStep(InnerAttack):
    """The adversary inside training: one step of `step_ratio` × eps, the model in `mode`."""

    steps: Count = 1
    step_ratio: Positive = 1.25

    @field_validator("steps")
    @classmethod
    def _one(cls, steps: int) -> int:
        if steps != 1:
            raise ValueError(f"must be 1, found {steps}: method 'at' takes any number of steps")
        return steps


@register
class FastAdversarialTraining(AdversarialTraining):
    """Cross-entropy of images moved by one step of 1.25 eps from a uniform random start (Wong et al. 2020, Alg. 3).

    After every epoch the accuracy under this attack is compared with that under PGD-10 (`ingredients.collapse`), on
    500 held-out images, or where there are none on 500 training images without augmentation, of every class its share;
    all, where there are fewer. Both are of the weights in training, not of their average, at the recipe's eps and in
    eval mode, from a generator of their own, so that training is the same with and without. Wong et al.'s code looks at
    one augmented training batch, under PGD-5.

    With `collapse` "stop", training ends where PGD accuracy alone has fallen by more than `drop` for two epochs, or in
    the last. The weights of the last epoch are saved whose PGD accuracy had not fallen by half of `drop`, or those that
    `training.select` "best" chose. With "warn" it goes on. metrics.jsonl has `one_step_accuracy`, `pgd_accuracy` and
    `collapsed` either way.

    The authors' gradient pass in train mode also moves BatchNorm's running statistics; here `inner.mode` "train" takes
    the batch's statistics and leaves the running ones alone.
    """

    name = "fast-at"

    class Options(AdversarialTraining.Options):
        """One step of `inner.step_ratio` × eps from a random start (Wong et al. 2020), linear head.

        `collapse` says whether catastrophic overfitting stops training, or only shows in the lines and metrics of its
        epochs. `drop` is the fall of PGD accuracy that counts as such while one-step accuracy stays.
        """

        inner: OneStep = OneStep()
        collapse: Literal["stop", "warn"] = "stop"
        drop: Annotated[float, Field(gt=0, lt=1)] = 0.2

    options: Options

    def __init__(self, context: Context, options: Options) -> None:
        super().__init__(context, options)
        self.stops = options.collapse == "stop"
        # One-step and PGD accuracy after each epoch.
        self.seen: list[tuple[float, float]] = []

    def monitored(self, held_out: Images | None, *, last: bool) -> dict[str, float]:
        images = self.context.images if held_out is None else held_out
        if len(images) > WATCHED:
            images = stratified_subset(images, WATCHED, seed=0)
        threat, inner = self.context.threat, self.options.inner
        step_size = inner.step_ratio * threat.eps
        # A random class to aim at would be drawn from training's chance.
        objective = "cross_entropy" if inner.objective in (None, "targeted") else inner.objective
        attack = partial(
            pgd, eps=threat.eps, norm=threat.norm, steps=1, step_size=step_size, objective=objective, keep="last"
        )
        one_step = accuracy(self.model, images, attack if threat.eps > 0 else None)
        robust = accuracies(self.model, images, threat)["validation_pgd"]
        self.seen.append((one_step, robust))
        self._judge(last)
        return {"one_step_accuracy": one_step, "pgd_accuracy": robust, "collapsed": self.health == "failed"}

    def _judge(self, last: bool) -> None:
        one_step, robust = zip(*self.seen, strict=True) if self.seen else ((), ())
        drop = self.options.drop
        failed = collapsed(one_step, robust, drop=drop, last=last)
        doubtful = fallen(one_step, robust, drop=drop / 2)
        self.health = "failed" if failed else "doubtful" if doubtful else "sound"

    def tensors(self) -> dict[str, Tensor]:
        seen = torch.tensor(self.seen, dtype=torch.float64).reshape(-1, 2)
        return {"seen": seen, "failed": torch.tensor(self.health == "failed")}

    def load(self, tensors: dict[str, Tensor]) -> None:
        seen = tensors["seen"]
        if seen.dim() != 2 or seen.shape[1] != 2 or not bool(((seen >= 0) & (seen <= 1)).all()):
            raise ValueError(f"seen must be (epochs, 2) accuracies, found {tuple(seen.shape)}")
        self.seen = [(one_step, robust) for one_step, robust in seen.tolist()]
        self._judge(last=bool(tensors["failed"]))
