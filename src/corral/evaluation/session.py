"""A model and its test images, gone through in batches."""

from collections.abc import Callable

import torch
from torch import Tensor

from corral.attacks import Norm
from corral.attacks.attack import Attack
from corral.attacks.engine import Attacked, run_attacks
from corral.data import Images
from corral.errors import CorralError
from corral.evaluation.cache import EvaluationCache
from corral.models import Classifier


class EvaluationSession:
    """A model, its test images and how to go through them.

    Args:
        model: in eval mode, on the images' device.
        images: labelled test images.
        classes: number of classes.
        norm: of the threat.
        batch_size: images attacked at a time.
        seed: of the attacks.
        shown: (m,) int64, the images that the page shows.
        progress: show progress on stderr.
    """

    def __init__(
        self,
        model: Classifier,
        images: Images,
        *,
        classes: int,
        norm: Norm,
        batch_size: int,
        seed: int,
        shown: Tensor,
        progress: bool,
    ) -> None:
        assert images.labels is not None
        self.model, self.images, self.labels = model, images, images.labels
        self.classes, self.norm, self.batch_size, self.seed = classes, norm, batch_size, seed
        self.shown, self.progress = shown, progress

    def accuracy(self, correct: Tensor) -> float:
        """Share of True."""
        return int(correct.sum()) / len(correct)

    def per_class(self, correct: Tensor) -> list[float | None]:
        """Share of True within each class; None where a class has no example."""
        counts = torch.bincount(self.labels, minlength=self.classes).tolist()
        hits = torch.bincount(self.labels[correct], minlength=self.classes).tolist()
        return [hit / count if count else None for hit, count in zip(hits, counts, strict=True)]

    def predictions(self, images: Tensor | None = None) -> Tensor:
        """(n,) predicted labels of the test images, or of given ones."""
        return self._batched(self.model, images).argmax(1)

    def features(self) -> Tensor:
        """(n, d) features of the test images."""
        return self._batched(self.model.features, None)

    def _batched(self, function: Callable[[Tensor], Tensor], images: Tensor | None) -> Tensor:
        device = self.labels.device
        total = len(self.images) if images is None else len(images)
        parts = []
        with torch.no_grad():
            for rows in torch.split(torch.arange(total, device=device), self.batch_size):
                parts.append(function(self.images.float(rows) if images is None else images[rows]))
        output = torch.cat(parts)
        if not bool(torch.isfinite(output).all()):
            raise CorralError("the model's outputs are not finite on the test images; train it again")
        return output

    def attack(self, attack: Attack, cache: EvaluationCache, *, count: int | None = None) -> Attacked:
        """Run one attack on the first `count` images (all by default), but for the batches that are finished."""
        return run_attacks(
            self.model,
            self.images.float,
            self.labels[:count],
            [attack],
            seed=self.seed,
            batch_size=self.batch_size,
            keep=self.shown if count is None else self.shown[self.shown < count],
            cache=cache,
            progress=self.progress,
        )
