"""RoCL (Kim et al. 2020): contrastive learning whose positives include the view's adversarial self."""

import torch
from torch import Tensor

from corral.attacks.state import attacked
from corral.losses import contrastive, nt_xent
from corral.registry import register
from corral.training.methods.base import Metrics
from corral.training.methods.encoder import ProjectedMethod, ProjectedOptions
from corral.training.recipes.base import InnerAttack, NotNegative


@register
class RoCL(ProjectedMethod):
    """Eq. 1's loss of t(x) with the positives t'(x) and t(x)_adv, plus `regularisation` × NT-Xent(t(x)_adv, t'(x)).

    t(x)_adv maximises NT-Xent(t(x)_adv, t'(x)) (RoCL, Eqs. 5 to 7). The released code takes every pair of the three
    views as anchor and positive; the anchor of the paper is t(x).
    """

    name = "rocl"

    class Options(ProjectedOptions):
        """A view's adversarial self is a further positive, and `regularisation` × its own NT-Xent is added."""

        regularisation: NotNegative = 1 / 256
        inner: InnerAttack = InnerAttack(steps=7)

    options: Options

    def loss(self, x: Tensor, y: Tensor, indices: Tensor) -> tuple[Tensor, Metrics]:
        options, embedder = self.options, self.embedder
        first, second = self.two_views(x)
        with attacked(embedder, options.inner.mode), torch.no_grad():
            other = embedder(second)

        def disagreement(embeddings: Tensor, _: Tensor) -> Tensor:
            return contrastive(torch.stack([embeddings, other]), temperature=options.temperature).sum(0)

        moved = self.adversarial(embedder, first, y, options.inner, disagreement)
        one, two, adversarial = self.embedded(torch.cat([first, second, moved])).chunk(3)
        views = torch.stack([one, two, adversarial])
        together = contrastive(views, temperature=options.temperature, anchors=1).mean()
        regular = nt_xent(adversarial, two, temperature=options.temperature)
        metrics = {"contrastive": together.detach(), "adversarial_nt_xent": regular.detach()}
        return together + options.regularisation * regular, metrics
