"""The model under diagnosis with its images, and the attacks that several checks share."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from corral.attacks.balls import Norm
from corral.attacks.checks import check_labels
from corral.attacks.objectives import LogitObjective, cross_entropy
from corral.attacks.pgd import Keep, pgd
from corral.attacks.state import attacked
from corral.attacks.wrapped_model import WrappedModel

# Images that go through the model at once.
BATCH = 256
# The white-box attack that the others are compared with: PGD on the cross-entropy of the outputs as they are.
STEPS, RESTARTS = 40, 2


def parts(rows: Tensor) -> tuple[Tensor, ...]:
    """(n, ...) rows in parts of at most BATCH."""
    return torch.split(rows, BATCH)


@dataclass(frozen=True)
class Gradients:
    """Gradients of some function of the outputs by (n, ...) images.

    `largest` (n,) is the largest entry's magnitude; where `finite` (n,) is False it is meaningless.
    """

    largest: Tensor
    finite: Tensor


class _Connected(nn.Module):
    """A model whose outputs have a path to the image, of gradient zero, even where its own has none."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.model(x)
        return outputs + 0 * x.flatten(1).sum(1, keepdim=True)


class DiagnosedModel:
    """A model, the images it classifies right, and what is known of it so far.

    Args:
        model: any module from images to outputs (n, C), in eval mode.
        x: (N, ...) images in [0, 1].
        y: (N,) labels.
        eps: radius of the threat.
        norm: "Linf" or "L2".
        seed: of every random choice.

    Attributes:
        every_x, every_y: all N images and labels.
        x, y: the n images that the model classifies right, and their labels; attacks start there.
        outputs, right_outputs: (N, C) of all images, (n, C) of those.
        standing: how many of the n images the strongest attack so far left, for guesses of cost.
        seconds_a_pass: of one image forward and backward, the latest measurement.
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: Norm, seed: int) -> None:
        self.model, self.every_x, self.every_y = model, x.detach(), y
        self.eps, self.norm, self.seed = eps, norm, seed
        self.outputs = self.forward(self.every_x)
        self.classes = self.outputs.shape[1]
        check_labels(y, self.classes)
        right = self.outputs.argmax(1) == y
        self.x, self.y = self.every_x[right], y[right]
        self.right_outputs = self.outputs[right]
        self.standing = self.n = len(self.y)
        self.seconds_a_pass = 0.0
        self._broken: dict[tuple[float, int, int], Tensor] = {}

    @property
    def accuracy(self) -> float:
        """The share of all images that the model classifies right."""
        return self.n / len(self.every_y)

    def forward(self, x: Tensor) -> Tensor:
        """(n, C) finite outputs of (n, ...) images, in eval mode and full float32."""
        with attacked(self.model), torch.autocast(x.device.type, enabled=False):
            wrapped = WrappedModel(self.model)
            return torch.cat([wrapped.logits(part.clone()) for part in parts(x)])

    def generator(self) -> torch.Generator:
        """A source of random starts, the same for every attack: attacks differ by what they do, not by luck."""
        return torch.Generator().manual_seed(self.seed % 2**63)

    def gradients(self, function: LogitObjective, x: Tensor) -> Gradients:
        """Gradients of a function of (outputs, labels) by n images, one each of `self.y`."""
        begun, largest = time.perf_counter(), []
        with attacked(self.model), torch.autocast(x.device.type, enabled=False), torch.enable_grad():
            for part, labels in zip(parts(x), parts(self.y), strict=True):
                part = part.clone().requires_grad_(True)
                values = function(_Connected(self.model)(part), labels)
                (gradient,) = torch.autograd.grad(values.sum(), part)
                # NaN goes through max.
                largest.append(gradient.flatten(1).abs().amax(1))
        found = torch.cat(largest) if largest else x.new_zeros(0)
        finite = torch.isfinite(found)
        self.seconds_a_pass = (time.perf_counter() - begun) / max(len(x), 1)
        return Gradients(found, finite)

    def climbed(
        self,
        *,
        eps: float,
        steps: int,
        restarts: int = 1,
        objective: LogitObjective = cross_entropy,
        random_start: bool = True,
        keep: Keep = "best",
    ) -> Tensor:
        """(n, ...) end points of PGD, steps of 2.5 eps / steps (one step: eps); arguments as `corral.attacks.pgd`."""
        generator = self.generator()
        model = _Connected(self.model)
        ends = [
            pgd(
                model,
                part,
                labels,
                eps=eps,
                norm=self.norm,
                steps=steps,
                step_size=eps if steps == 1 else 2.5 * eps / steps,
                restarts=restarts,
                objective=objective,
                generator=generator,
                random_start=random_start,
                keep=keep,
            )
            for part, labels in zip(parts(self.x), parts(self.y), strict=True)
        ]
        return torch.cat(ends) if ends else self.x.clone()

    def misled(self, x: Tensor) -> Tensor:
        """(n,) bool, whether the model misclassifies these points, one each of `self.y`."""
        broken = self.forward(x).argmax(1) != self.y
        self.standing = min(self.standing, int((~broken).sum()))
        return broken

    def broken(self, *, eps: float, steps: int = STEPS, restarts: int = RESTARTS) -> Tensor:
        """(n,) bool, the images that PGD on the cross-entropy of the outputs breaks; each run is made once."""
        key = (eps, steps, restarts)
        if key not in self._broken:
            self._broken[key] = self.misled(self.climbed(eps=eps, steps=steps, restarts=restarts))
        return self._broken[key]
