"""DeACL (Zhang et al. 2022): an encoder kept near a frozen one, and steady within the ball around every image."""

import copy

import torch
from torch import Tensor

from corral.attacks.objectives import LogitObjective
from corral.attacks.state import attacked
from corral.losses import negative_cosine
from corral.registry import register
from corral.training.features import extract_features, require_differing
from corral.training.methods.base import MethodOptions, Metrics
from corral.training.methods.encoder import DualNorm, EncoderMethod
from corral.training.recipes.base import InnerAttack, Positive

# Training images, at most, that the frozen encoder has to tell apart before it teaches.
ASKED = 250


@register
class DeACL(EncoderMethod):
    """CosSim(f2(x), f1(x)) + weight × CosSim(f2(x_adv), f2(x)) (NCP-ACL Eq. 3), CosSim the negative cosine.

    f1 is the encoder of `training.start`, frozen, and f2 begins as f1. x_adv maximises CosSim(f2(x_adv), f1(x))
    (NCP-ACL Eq. 2). With a single BatchNorm, clean and adversarial images share their batch, as in the released code.
    """

    name = "deacl"
    continues_from = "encoder"
    parts = ("teacher",)

    class Options(MethodOptions):
        """NCP-ACL's Eq. 3, `robust_weight` on its second term, and Eq. 2's adversary, away from the first encoder.

        `dual_norm` names the branch of dual BatchNorm that evaluates; "none" is a single BatchNorm.
        """

        robust_weight: Positive = 2.0
        dual_norm: DualNorm = "none"
        inner: InnerAttack = InnerAttack()

    def prepare(self) -> None:
        """Keep the encoder as it begins, then give the backbone its branches."""
        self.teacher = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.teacher.head = self.make_head()
        super().prepare()

    def start(self) -> None:
        """Take the head away; an encoder that tells no images apart has nothing to teach."""
        super().start()
        images = self.context.images
        # From everywhere: folders are in the order of their classes.
        indices = torch.linspace(0, len(images) - 1, min(ASKED, len(images)), device=images.device).long()
        require_differing(extract_features(self.teacher, images.take(indices)), "training.start")

    def loss(self, x: Tensor, y: Tensor, indices: Tensor) -> tuple[Tensor, Metrics]:
        features = BatchFeatures(self, x, indices)
        objective = self.objective(features)
        with self.branch("adversarial"):
            x_adv = self.adversarial(self.model, x, y, self.options.inner, objective)
        clean, moved = features.both(x_adv)
        faithful, steady = negative_cosine(clean, features.kept).mean(), negative_cosine(moved, clean).mean()
        metrics = {"to_the_first_encoder": -faithful.detach(), "adversarial_to_clean": -steady.detach()}
        return faithful + self.options.robust_weight * steady, metrics

    def objective(self, features: "BatchFeatures") -> LogitObjective:
        """What the adversary maximises, of (n, d) features of the images of a batch."""
        kept = features.kept
        return lambda moved, _: negative_cosine(moved, kept)


class BatchFeatures:
    """Features of a batch's images by the two encoders; each forward pass is made once, when it is first needed.

    Args:
        method: whose encoders they are.
        x: (n, C, H, W) augmented images.
        indices: (n,) their indices in the training set.

    `kept` are the (n, d) features of the frozen encoder.
    """

    def __init__(self, method: DeACL, x: Tensor, indices: Tensor) -> None:
        self.method, self.x, self.indices = method, x, indices
        self.separate: Tensor | None = None
        with torch.no_grad():
            self.kept = method.teacher.features(x)

    def clean(self) -> Tensor:
        """(n, d) features of the images by the clean branch, without a gradient.

        With dual BatchNorm they are those of the loss. With a single one the loss sees clean and adversarial images as
        one batch, after the attack: then they are of a pass of their own, in eval mode, which moves no statistics.
        """
        if self.method.evaluates is not None:
            return self._of_the_loss().detach()
        with attacked(self.method.model, "eval"), torch.no_grad():
            return self.method.model.features(self.x)

    def both(self, x_adv: Tensor) -> tuple[Tensor, Tensor]:
        """Features of clean and of adversarial images, each by its own branch or both in one batch."""
        model = self.method.model
        if self.method.evaluates is None:
            clean, moved = model.features(torch.cat([self.x, x_adv])).chunk(2)
            return clean, moved
        clean = self._of_the_loss()
        with self.method.branch("adversarial"):
            return clean, model.features(x_adv)

    def _of_the_loss(self) -> Tensor:
        if self.separate is None:
            with self.method.branch("clean"):
                self.separate = self.method.model.features(self.x)
        return self.separate
