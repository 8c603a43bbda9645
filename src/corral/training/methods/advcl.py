"""AdvCL (Fan et al. 2021): four views, one adversarial and one of high frequencies, and pseudo-labels by an encoder."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from corral.attacks.state import attacked
from corral.data.frequencies import high_frequencies
from corral.distributed import ranks
from corral.errors import UsageError
from corral.geometry import kmeans
from corral.losses import contrastive
from corral.registry import register
from corral.training.features import features_block, require_differing
from corral.training.methods.base import Context, Metrics, read_indices
from corral.training.methods.encoder import DualNorm, ProjectedMethod, ProjectedOptions, ViewsConfig, require_images
from corral.training.recipes.base import InnerAttack, NotNegative, Positive
from corral.training.run import load_model


@register
class AdvCL(ProjectedMethod):
    """Contrast of four views, each positive by itself, and the cross-entropy of pseudo-labels on adversarial images.

    One adversarial image maximises the contrast, another the mean cross-entropy of the linear heads, one for each
    number of clusters. The released code gives each of the two its own BatchNorm; here both go through the adversarial
    branch.
    """

    name = "advcl"
    parts = ("projection", "heads")

    class Options(ProjectedOptions):
        """AdvCL (Fan et al. 2021): two views, an adversarial image and the image's high frequencies as four positives.

        The loss is `contrast_weight` × the contrast plus `cross_entropy_weight` × the cross-entropy of adversarial
        images toward pseudo-labels: the clusters, as many as each of `clusterings` says, of features of the encoder
        that `labeller` names, a run. High frequencies are those from `frequency` on, in cycles an image.
        """

        views: ViewsConfig = ViewsConfig(smallest=0.2, blur=0.0)
        labeller: str | None = None
        clusterings: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)]
        contrast_weight: Positive = 1.0
        cross_entropy_weight: NotNegative = 0.2
        frequency: Positive = 8.0
        dual_norm: DualNorm = "adversarial"
        inner: InnerAttack = InnerAttack()

    options: Options

    def __init__(self, context: Context, options: Options) -> None:
        super().__init__(context, options)
        if options.labeller is None:
            raise UsageError("method 'advcl' needs an encoder for pseudo-labels: set method.labeller to a run")
        require_images("method.clusterings", max(options.clusterings), context.images)
        height, width = context.images.shape[1:]
        highest = math.hypot(height // 2, width // 2)
        if options.frequency > highest:
            raise UsageError(
                f"method.frequency {options.frequency:g} is above the highest of {height}×{width} images, "
                f"{highest:.1f}: lower it"
            )
        device = context.device
        with self.drawn():
            heads = [nn.Linear(context.model.features_dim, clusters) for clusters in options.clusterings]
        self.heads = nn.ModuleList(heads).to(device)
        self.labels = torch.zeros(len(heads), len(context.images), dtype=torch.int64, device=device)

    def start(self) -> None:
        """Take the head away, and cluster the labeller's features of the training images."""
        super().start()
        assert self.options.labeller is not None
        images = self.context.images
        labeller, spec, _ = load_model(self.options.labeller, device=self.context.device, encoder=True)
        if spec.image_shape != images.shape:
            raise UsageError(
                f"method.labeller {self.options.labeller} takes images of {spec.image_shape}, these are "
                f"{images.shape}: name an encoder of the same images"
            )
        features = features_block(labeller, images)
        require_differing(features, f"method.labeller {self.options.labeller}", shared=True)
        for place, clusters in enumerate(self.options.clusterings):
            found = kmeans(features, clusters, generator=self.context.order, shared=True)
            self.labels[place] = torch.cat(ranks.gathered(found.assignments))

    def learned(self) -> list[nn.Parameter]:
        return [*super().learned(), *self.heads.parameters()]

    def loss(self, x: Tensor, y: Tensor, indices: Tensor) -> tuple[Tensor, Metrics]:
        options, embedder, labels = self.options, self.embedder, self.labels[:, indices]
        clean = torch.cat([*self.two_views(x), high_frequencies(x, least=options.frequency)])
        with self.branch("clean"), attacked(embedder, options.inner.mode), torch.no_grad():
            held = embedder(clean).view(3, len(x), -1)

        def contrast(embeddings: Tensor, _: Tensor) -> Tensor:
            four = torch.cat([embeddings.unsqueeze(0), held])
            return contrastive(four, temperature=options.temperature, positives="each").sum(0)

        def misread(features: Tensor, _: Tensor) -> Tensor:
            return self._cross_entropy(features, labels)

        with self.branch("adversarial"):
            moved = self.adversarial(embedder, x, y, options.inner, contrast)
            mislabelled = self.adversarial(self.model, x, y, options.inner, misread)
            adversarial = self.embedded(moved)
            cross_entropy = self._cross_entropy(self.model.features(mislabelled), labels).mean()
        with self.branch("clean"):
            # Each a batch of its own: what a high-pass filter leaves lies around 0, far from the views' statistics.
            three = [self.embedded(part) for part in clean.chunk(3)]
        four = torch.stack([adversarial, *three])
        together = contrastive(four, temperature=options.temperature, positives="each").mean()
        metrics = {"contrastive": together.detach(), "cross_entropy": cross_entropy.detach()}
        return options.contrast_weight * together + options.cross_entropy_weight * cross_entropy, metrics

    def _cross_entropy(self, features: Tensor, labels: Tensor) -> Tensor:
        """(n,) cross-entropies, the mean over the heads; labels are (heads, n)."""
        losses = [
            functional.cross_entropy(head(features), own, reduction="none")
            for head, own in zip(self.heads, labels, strict=True)
        ]
        return torch.stack(losses).mean(0)

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {"labels": self.labels}

    def load(self, tensors: dict[str, Tensor]) -> None:
        super().load(tensors)
        found = read_indices(tensors, "labels", self.labels, max(self.options.clusterings))
        for clusters, labels in zip(self.options.clusterings, found, strict=True):
            if int(labels.max()) >= clusters:
                raise ValueError(f"labels must be clusters in [0, {clusters})")
        self.labels = found
