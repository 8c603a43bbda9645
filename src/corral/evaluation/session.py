"""A model and its test images, gone through in batches; attacks' finished batches are kept in a ledger."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from corral.attacks import Norm
from corral.attacks.attack import Attack
from corral.data import Images
from corral.errors import CorralError
from corral.evaluation.ledger import Batch, Ledger
from corral.models import Classifier
from corral.progress import Progress


@dataclass(frozen=True)
class Attacked:
    """Results of one attack on all images.

    Attributes:
        correct: (n,) bool, classified right under the attack.
        step: (n,) int64, at which step each fell, -1 where it stands.
        shown: (m, ...) the adversarial versions of the shown images.
        seconds: over all batches, also those of an interrupted evaluation.
        forwards: images passed forward.
        backwards: images passed backward.
    """

    correct: Tensor
    step: Tensor
    shown: Tensor
    seconds: float
    forwards: int
    backwards: int


class Session:
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

    def attack(self, attack: Attack, ledger: Ledger, *, key: str, count: int | None = None) -> Attacked:
        """Run one attack on the first `count` images (all by default), but for the batches that are finished."""
        total = len(self.images) if count is None else min(count, len(self.images))
        batches: list[Batch] = []
        with Progress(f"{attack.name} at eps {attack.threat.eps:.4g}", total, "images", enabled=self.progress) as bar:
            for number, rows in enumerate(torch.split(torch.arange(total, device=self.labels.device), self.batch_size)):
                done = ledger.read(key, number)
                if done is not None and len(done.correct) != len(rows):
                    raise CorralError(
                        f"{ledger.folder}: batch {number} of {key} has {len(done.correct)} images, expected "
                        f"{len(rows)}; give --fresh to begin anew"
                    )
                if done is None:
                    done = self._batch(attack, rows)
                    ledger.write(key, number, done)
                batches.append(done)
                bar.advance(len(rows))
        device = self.labels.device
        return Attacked(
            correct=torch.from_numpy(np.concatenate([batch.correct for batch in batches])).to(device),
            step=torch.from_numpy(np.concatenate([batch.step for batch in batches])).to(device),
            shown=torch.from_numpy(np.concatenate([batch.shown for batch in batches])).to(device),
            seconds=sum(batch.seconds for batch in batches),
            forwards=sum(batch.forwards for batch in batches),
            backwards=sum(batch.backwards for batch in batches),
        )

    def _batch(self, attack: Attack, rows: Tensor) -> Batch:
        started = time.perf_counter()
        outcome = attack.run(self.model, self.images.float(rows), self.labels[rows], seed=self.seed)
        correct = (~outcome.broken).cpu().numpy()
        return Batch(
            correct=correct,
            step=outcome.step.cpu().numpy(),
            shown=outcome.x_adv[torch.isin(rows, self.shown)].cpu().numpy(),
            seconds=time.perf_counter() - started,
            forwards=outcome.forwards,
            backwards=outcome.backwards,
        )
