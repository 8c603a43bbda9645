"""DynACL++'s post-processing (Luo et al. 2023): an encoder trained on toward clusters of its own features."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from corral.distributed import ranks
from corral.geometry import kmeans
from corral.losses import kl
from corral.registry import register
from corral.training.features import SharedFeatures, require_differing
from corral.training.methods.base import Context, MethodOptions, Metrics, read_indices
from corral.training.methods.encoder import EncoderMethod, require_images
from corral.training.recipes.base import Count, InnerAttack, Positive

# The released code's: of the linear head before the weights are trained.
MOMENTUM, WEIGHT_DECAY = 0.9, 1e-4


@register
class PseudoLabelled(EncoderMethod):
    """TRADES on pseudo-labels: linear probing, then adversarial full fine-tuning; the encoder alone is kept.

    Pseudo-labels are the clusters of the features of `training.start` (Euclidean k-means). The released code takes them
    from the clean branch of dual BatchNorm; a saved encoder has one branch, and they are of that one.
    """

    name = "dynacl++"
    continues_from = "encoder"
    parts = ("probe",)

    class Options(MethodOptions):
        """DynACL++'s post-processing (Luo et al. 2023): TRADES toward clusters of the encoder's own features as labels.

        `clusters` pseudo-classes; a linear head is fitted to them for `probe_epochs` on features as they are, and then
        all weights are trained, `consistency_weight` × KL among the loss. The encoder alone is kept. "dynacl-air++" is
        the same from another encoder.
        """

        clusters: Annotated[int, Field(ge=2)] = 10
        probe_epochs: Count = 10
        probe_learning_rate: Positive = 0.01
        consistency_weight: Positive = 6.0
        inner: InnerAttack = InnerAttack(steps=10)

    options: Options

    def __init__(self, context: Context, options: Options) -> None:
        super().__init__(context, options)
        require_images("method.clusters", options.clusters, context.images)
        with self.drawn():
            probe = nn.Linear(context.model.features_dim, options.clusters)
        self.probe = probe.to(context.device)
        self.labels = torch.zeros(len(context.images), dtype=torch.int64, device=context.device)

    def start(self) -> None:
        """Take the head away, label the training images and fit the linear head to their features as they are."""
        super().start()
        features, order = SharedFeatures(self.model, self.context.images), self.context.order
        require_differing(features.block, "training.start", shared=True)
        found = kmeans(features.block, self.options.clusters, generator=order, shared=True).assignments
        self.labels = torch.cat(ranks.gathered(found))
        optimiser = torch.optim.SGD(
            self.probe.parameters(), lr=self.options.probe_learning_rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
        )
        for _ in range(self.options.probe_epochs):
            for indices in self.batches():
                optimiser.zero_grad()
                logits = self.probe(features.rows(indices))
                loss = functional.cross_entropy(logits, self.labels[indices])
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()

    def learned(self) -> list[nn.Parameter]:
        return list(self.probe.parameters())

    def loss(self, x: Tensor, y: Tensor, indices: Tensor) -> tuple[Tensor, Metrics]:
        classifier, pseudo = nn.Sequential(self.model, self.probe), self.labels[indices]
        x_adv = self.consistency_attack(classifier, x, pseudo, self.options.inner, kl)
        logits, adversarial = classifier(x), classifier(x_adv)
        cross_entropy, term = functional.cross_entropy(logits, pseudo), kl(logits, adversarial).mean()
        metrics = {
            "cross_entropy": cross_entropy.detach(),
            "consistency": term.detach(),
            "pseudo_accuracy": (logits.argmax(1) == pseudo).float().mean(),
        }
        return cross_entropy + self.options.consistency_weight * term, metrics

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {"labels": self.labels}

    def load(self, tensors: dict[str, Tensor]) -> None:
        super().load(tensors)
        self.labels = read_indices(tensors, "labels", self.labels, self.options.clusters)


@register
class PseudoLabelledAir(PseudoLabelled):
    """The same from DynACL-AIR's encoder (Xu et al. 2023)."""

    name = "dynacl-air++"
