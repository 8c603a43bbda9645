"""ACL (Jiang et al. 2020), DynACL (Luo et al. 2023) and DynACL-AIR (Xu et al. 2023): contrast of adversarial views."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from corral.losses import adversarial_invariance, contrastive, nt_xent, standard_invariance
from corral.models import Classifier
from corral.models.dual_norm import Branch, using
from corral.registry import register
from corral.training.methods.base import Context, Metrics
from corral.training.methods.encoder import DualNorm, ProjectedMethod, ProjectedOptions
from corral.training.recipes.base import Count, InnerAttack, NotNegative


@register
class Acl(ProjectedMethod):
    """((1 - w) NT-Xent(views) + (1 + w) NT-Xent(adversarial views) + invariance × AIR's two terms) / 2.

    The adversary moves both views to raise their NT-Xent; clean views go through the clean branch of dual BatchNorm,
    adversarial ones, and the attack, through the adversarial branch. w = `reweight` × (1 - strength of the views); in
    ACL it is 0. In DynACL every second view goes through the target network, also in the attack; its running statistics
    are of its own passes. Released DynACL also keeps BatchNorms in its projection, of three layers; ours is SimCLR's.
    """

    name = "acl"
    parts = ("projection", "target")

    class Options(ProjectedOptions):
        """ACL (Jiang et al. 2020, dual stream): NT-Xent of two views and of their adversarial selves, half and half.

        "dynacl" (Luo et al. 2023) lets the views' strength fall from 1 by equal steps, one every `decay_every` epochs,
        with `reweight` × (1 - strength) of weight going from the clean to the adversarial half; "dynacl-air" (Xu et al.
        2023) adds `invariance` × its two regularisers, standard and adversarial. `target` above 0 gives the second
        views to another network, projection and all: a moving average of the weights, `target` its decay a step
        (DynACL's code: 0.99), without gradients, and saved in their stead; 0 trains and saves a single network.
        """

        decay_every: Count | None = None
        reweight: Annotated[float, Field(ge=0, le=1)] = 0.0
        invariance: NotNegative = 0.0
        target: Annotated[float, Field(ge=0, lt=1)] = 0.0
        dual_norm: DualNorm = "adversarial"
        inner: InnerAttack = InnerAttack()

        @model_validator(mode="after")
        def _consistent(self) -> Self:
            if self.reweight > 0 and self.decay_every is None:
                raise ValueError("reweight follows the strength of views: set decay_every, or leave reweight 0")
            return self

    options: Options

    def __init__(self, context: Context, options: Options) -> None:
        super().__init__(context, options)
        self.epochs_done = 0
        self.target: nn.Sequential | None = None

    def prepare(self) -> None:
        """Give the backbone its branches, and let the target network begin as the trained one does."""
        super().prepare()
        if self.options.target > 0:
            model = copy.deepcopy(self.model)
            model.head = self.make_head()
            self.target = nn.Sequential(model, copy.deepcopy(self.projection)).train().requires_grad_(False)

    @contextmanager
    def branch(self, name: Branch) -> Iterator[None]:
        """Send batches through one branch of both networks."""
        with super().branch(name):
            if self.target is None or self.evaluates is None:
                yield
            else:
                with using(self.target, name):
                    yield

    @property
    def viewer(self) -> nn.Module:
        """From (2 N, C, H, W) first and second views to (2 N, outputs) embeddings."""
        return self.embedder if self.target is None else _Halves(self.embedder, self.target)

    @property
    def strength(self) -> float:
        """Of this epoch's views: it falls from 1 by equal steps and never reaches 0 (DynACL, Eq. 5)."""
        every = self.options.decay_every
        return 1.0 if every is None else 1 - self.epochs_done // every * every / self.context.epochs

    def loss(self, x: Tensor, y: Tensor, indices: Tensor) -> tuple[Tensor, Metrics]:
        options, strength = self.options, self.strength
        views = torch.cat(self.two_views(x, options.views.augmentation().weakened(strength)))
        viewer = self.viewer
        with self.branch("adversarial"):
            moved = self.adversarial(viewer, views, torch.cat([y, y]), options.inner, self._disagreement)
            first_adversarial, second_adversarial = viewer(moved).chunk(2)
        with self.branch("clean"):
            first, second = viewer(views).chunk(2)
            # A batch of its own: images as they are have other statistics than views.
            originals = [self.embedded(x)] if options.invariance > 0 else []
        clean = nt_xent(first, second, temperature=options.temperature)
        adversarial = nt_xent(first_adversarial, second_adversarial, temperature=options.temperature)
        weight = options.reweight * (1 - strength)
        total = (1 - weight) * clean + (1 + weight) * adversarial
        metrics = {"nt_xent": clean.detach(), "adversarial_nt_xent": adversarial.detach()}
        for original in originals:
            standard = standard_invariance(first, second, original, temperature=options.temperature)
            robust = adversarial_invariance(
                first, second, first_adversarial, second_adversarial, original, temperature=options.temperature
            )
            total = total + options.invariance * (standard + robust)
            metrics |= {"standard_invariance": standard.detach(), "adversarial_invariance": robust.detach()}
        return total / 2, metrics

    def _disagreement(self, embeddings: Tensor, _: Tensor) -> Tensor:
        """(2 N,) NT-Xent of both views' embeddings, each an anchor."""
        pairs = embeddings.view(2, len(embeddings) // 2, -1)
        return contrastive(pairs, temperature=self.options.temperature).flatten()

    def after_step(self) -> None:
        if self.target is not None:
            with torch.no_grad():
                for own, trained in zip(self.target.parameters(), self.embedder.parameters(), strict=True):
                    own.lerp_(trained, 1 - self.options.target)

    def after_epoch(self) -> dict[str, float]:
        strength = self.strength
        self.epochs_done += 1
        return {"strength": strength}

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """Hold the backbone as the target's, where there is one."""
        backbone = self.model.backbone
        own = {name: tensor.clone() for name, tensor in backbone.state_dict().items()} if self.target else {}
        try:
            if self.target is not None:
                target = self.target[0]
                assert isinstance(target, Classifier)
                backbone.load_state_dict(target.backbone.state_dict())
            with super().evaluated():
                yield
        finally:
            if own:
                backbone.load_state_dict(own)

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {"epochs_done": torch.tensor(self.epochs_done)}

    def load(self, tensors: dict[str, Tensor]) -> None:
        super().load(tensors)
        self.epochs_done = int(tensors["epochs_done"])
        if not 0 <= self.epochs_done <= self.context.epochs:
            raise ValueError(f"epochs_done {self.epochs_done} is outside the {self.context.epochs} epochs")
        if self.target is not None and not all(bool(own.isfinite().all()) for own in self.target.state_dict().values()):
            raise ValueError("the target network holds NaN or infinite values")


@register
class DynAcl(Acl):
    """The same with views whose strength falls (Luo et al. 2023)."""

    name = "dynacl"


@register
class DynAclAir(Acl):
    """The same with DynACL's views and AIR's two regularisers (Xu et al. 2023)."""

    name = "dynacl-air"


class _Halves(nn.Module):
    """A batch whose first half goes through one network and whose second half through another."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        """(2 N, d) outputs of 2 N inputs, in their order."""
        one, two = x.chunk(2)
        return torch.cat([self.first(one), self.second(two)])
