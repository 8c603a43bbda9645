"""ACL (Jiang et al. 2020), DynACL (Luo et al. 2023) and DynACL-AIR (Xu et al. 2023): contrast of adversarial views."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from corral.data.views import random_views
from corral.losses import adversarial_invariance, contrastive, nt_xent, standard_invariance
from corral.training.methods.base import Context, Metrics
from corral.training.methods.encoder import ProjectedMethod
from corral.training.recipe_encoders import AclConfig

AVERAGE = "average."


class Acl(ProjectedMethod):
    """((1 - w) NT-Xent(views) + (1 + w) NT-Xent(adversarial views) + invariance × AIR's two terms) / 2.

    The adversary moves both views to raise their NT-Xent; clean views go through the clean branch of dual BatchNorm,
    adversarial ones, and the attack, through the adversarial branch. w = `reweight` × (1 - strength of the views); in
    ACL it is 0. Released DynACL also keeps BatchNorms in its projection, of three layers; ours is SimCLR's.
    """

    def __init__(self, context: Context, config: AclConfig) -> None:
        super().__init__(context, config.projection, None if config.dual_norm == "none" else config.dual_norm)
        self.config = config
        self.epochs_done = 0
        self.average: dict[str, Tensor] = {}

    def start(self) -> None:
        """Take the head away; the average begins as the weights do."""
        super().start()
        if self.config.average > 0:
            self.average = {name: tensor.clone() for name, tensor in self.model.backbone.state_dict().items()}

    @property
    def strength(self) -> float:
        """Of this epoch's views: it falls from 1 by equal steps and never reaches 0 (DynACL, Eq. 5)."""
        every = self.config.decay_every
        return 1.0 if every is None else 1 - self.epochs_done // every * every / self.context.epochs

    def loss(self, x: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Metrics]:
        """The batch's loss; labels play no part."""
        config, strength = self.config, self.strength
        augmentation = config.views.augmentation().weakened(strength)
        views = torch.cat([random_views(x, augmentation, generator=self.context.noise) for _ in range(2)])
        with self.branch("adversarial"):
            moved = self.adversarial(self.embedder, views, torch.cat([y, y]), config.inner, self._disagreement)
            first_adversarial, second_adversarial = self.embedded(moved).chunk(2)
        with self.branch("clean"):
            first, second = self.embedded(views).chunk(2)
            # A batch of its own: images as they are have other statistics than views.
            originals = [self.embedded(x)] if config.invariance > 0 else []
        clean = nt_xent(first, second, temperature=config.temperature)
        adversarial = nt_xent(first_adversarial, second_adversarial, temperature=config.temperature)
        weight = config.reweight * (1 - strength)
        total = (1 - weight) * clean + (1 + weight) * adversarial
        metrics = {"nt_xent": clean.detach(), "adversarial_nt_xent": adversarial.detach()}
        for original in originals:
            standard = standard_invariance(first, second, original, temperature=config.temperature)
            robust = adversarial_invariance(
                first, second, first_adversarial, second_adversarial, original, temperature=config.temperature
            )
            total = total + config.invariance * (standard + robust)
            metrics |= {"standard_invariance": standard.detach(), "adversarial_invariance": robust.detach()}
        return total / 2, metrics

    def _disagreement(self, embeddings: Tensor, _: Tensor) -> Tensor:
        """(2 N,) NT-Xent of both views' embeddings, each an anchor."""
        pairs = embeddings.view(2, len(embeddings) // 2, -1)
        return contrastive(pairs, temperature=self.config.temperature).flatten()

    def after_step(self) -> None:
        """Let the average follow the weights and the running statistics."""
        for name, tensor in self.model.backbone.state_dict().items() if self.average else ():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, 1 - self.config.average)
            else:
                self.average[name].copy_(tensor)

    def after_epoch(self) -> dict[str, float]:
        """Count the epoch."""
        strength = self.strength
        self.epochs_done += 1
        return {"strength": strength}

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """Hold the backbone at the average of its weights."""
        backbone = self.model.backbone
        own = {name: tensor.clone() for name, tensor in backbone.state_dict().items()} if self.average else {}
        try:
            if self.average:
                backbone.load_state_dict(self.average)
            with super().evaluated():
                yield
        finally:
            if own:
                backbone.load_state_dict(own)

    def tensors(self) -> dict[str, Tensor]:
        """The projection, the average and how many epochs are done."""
        average = {f"{AVERAGE}{name}": tensor for name, tensor in self.average.items()}
        return super().tensors() | average | {"epochs_done": torch.tensor(self.epochs_done)}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        super().load(tensors)
        self.epochs_done = int(tensors["epochs_done"])
        if self.config.average > 0:
            own = self.model.backbone.state_dict()
            self.average = {name: tensors[f"{AVERAGE}{name}"].to(tensor.device) for name, tensor in own.items()}
            if any(self.average[name].shape != tensor.shape for name, tensor in own.items()):
                raise ValueError("the running average is of another backbone")
