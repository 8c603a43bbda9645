"""Features and accuracies of a whole image set, in eval mode and without augmentation."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from corral.attacks import pgd
from corral.data import Images, as_float
from corral.distributed import ranks
from corral.errors import CorralError
from corral.models import Classifier
from corral.models.modes import eval_mode
from corral.precision import full_float32
from corral.training.recipes.base import ThreatConfig

# The attack and the batch of `accuracies`.
STEPS, BATCH = 10, 500
ANOTHER = "name another encoder, or train it again at a lower learning rate"


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Hold a model in eval mode, without gradients and without TF32; every module's mode is restored."""
    with eval_mode(model), torch.no_grad(), full_float32():
        yield


def extract_features(model: Classifier, images: Images, *, batch_size: int = 250) -> Tensor:
    """(N, d) float32 features of all images, on the model's device; the model's mode is restored.

    Several processes extract them of a part each, and all have all of them.

    Args:
        model: the classifier whose features they are.
        images: the images.
        batch_size: images a forward pass.
    """
    return torch.cat(ranks.gathered(features_block(model, images, batch_size=batch_size)))


def features_block(model: Classifier, images: Images, *, batch_size: int = 250) -> Tensor:
    """(n, d) float32 features of this process's block of all images; of one process alone, of all."""
    parts = torch.arange(len(images)).tensor_split(ranks.size())
    return features_of(model, images, parts[ranks.rank()], batch_size=batch_size)


class SharedFeatures:
    """Features of all training images, of which each process has its block alone.

    Attributes:
        block: (n, d) float32, this process's; of one process alone all.
    """

    def __init__(self, model: Classifier, images: Images) -> None:
        self.block = features_block(model, images)
        self.start = sum(ranks.everyones(len(self.block))[: ranks.rank()])

    def rows(self, indices: Tensor) -> Tensor:
        """(m, d) features of the images at (m,) indices, the same in every process, which all have to ask for."""
        return ranks.rows(self.block, indices, self.start)


def features_of(model: Classifier, images: Images, indices: Tensor, *, batch_size: int = 250) -> Tensor:
    """(n, d) features of the images at (n,) indices, by this process alone."""
    with evaluating(model):
        device = next(model.parameters()).device
        if not len(indices):
            return torch.empty(0, model.features_dim, device=device)
        parts = images.each(torch.split(indices.to(images.device), batch_size))
        return torch.cat([model.features(as_float(stored).to(device)) for _, stored in parts])


def accuracies(model: Classifier, images: Images, threat: ThreatConfig) -> dict[str, float]:
    """Clean accuracy, and accuracy under PGD-10 from a fixed random start, as shares: for validation, never a result.

    Args:
        model: its mode is restored.
        images: held-out ones with their labels.
        threat: norm and radius.
    """
    eps = threat.eps
    attack = partial(pgd, eps=eps, norm=threat.norm, steps=STEPS, step_size=2.5 * eps / STEPS)
    clean = accuracy(model, images)
    return {
        "validation_clean": clean,
        "validation_pgd": accuracy(model, images, attack) if eps > 0 else clean,
    }


def accuracy(model: Classifier, images: Images, attack: Callable[..., Tensor] | None = None) -> float:
    """The share of labelled images that a model classifies right in eval mode, clean or under an attack.

    Several processes take turns at the batches; each draws the numbers of those that it leaves out, too.

    Args:
        model: its mode is restored.
        images: with their labels.
        attack: of (model, x, y), with a `generator` of its own numbers, the same at every call of this function.
    """
    device, labels = images.device, images.labels
    assert labels is not None
    generator = torch.Generator(device).manual_seed(0)
    right = 0
    with evaluating(model):
        batches = torch.split(torch.arange(len(images), device=device), BATCH)
        own = images.each(batches[ranks.rank() :: ranks.size()])
        for number in range(len(batches)):
            if number % ranks.size() != ranks.rank():
                torch.randint(2**62, (), generator=generator, device=device)  # the attack's one number
                continue
            indices, stored = next(own)
            x, y = as_float(stored), labels[indices]
            if attack is not None:
                x = attack(model, x, y, generator=generator)
            right += int((model(x).argmax(1) == y).sum())
    return int(ranks.summed(torch.tensor(right))) / len(images)


def require_finite(features: Tensor, encoder: str, *, remedy: str = ANOTHER) -> None:
    """Refuse (N, d) features that are not finite, or so large that their squares are not.

    Raises:
        CorralError: with what made them (`encoder`, such as "training.start") and the remedy.
    """
    if not bool(torch.linalg.vector_norm(features).isfinite()):
        raise CorralError(f"{encoder}: the features are not finite or too large to measure: {remedy}")


def require_differing(features: Tensor, encoder: str, *, shared: bool = False) -> None:
    """Refuse (N, d) features of different images that are all equal, or that `require_finite` refuses.

    `shared`: they are this process's block of those of several.

    Raises:
        CorralError: with what made them (`encoder`, such as "training.start") and the remedy.
    """
    if shared:
        ranks.agreed(lambda: require_finite(features, encoder))
        first = torch.cat(ranks.gathered(features[:1]))[:1]
        counts = ranks.everyones((len(features), bool((features == first).all())))
        total, same = sum(count for count, _ in counts), all(equal for _, equal in counts)
    else:
        require_finite(features, encoder)
        total, same = len(features), bool((features == features[:1]).all())
    if total > 1 and same:
        raise CorralError(f"{encoder}: all images have the same features, the encoder tells none apart: name another")
