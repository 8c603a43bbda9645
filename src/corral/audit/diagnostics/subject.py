"""The model under diagnosis with its images, and the attacks that several checks share."""

import time
from functools import partial

import torch
from torch import Tensor, nn

from corral.attacks.balls import Norm
from corral.attacks.checks import check_labels
from corral.attacks.objectives import LogitObjective, cross_entropy
from corral.attacks.pgd import Keep, pgd
from corral.attacks.state import attacked
from corral.attacks.wrapped_model import WrappedModel, image_gradient
from corral.models.contract import contracted

# Images that go through the model at once.
BATCH = 256
# The white-box attack that the others are compared with: PGD on the cross-entropy of the outputs as they are.
STEPS, RESTARTS = 40, 2


def parts(values: Tensor) -> tuple[Tensor, ...]:
    """(n, ...) images or labels in parts of at most BATCH."""
    return torch.split(values, BATCH)


class _Connected(nn.Module):
    """A model whose outputs have a path to the image, of gradient zero, even where its own has none."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.model(x)
        return outputs + 0 * x.flatten(1).sum(1, keepdim=True)


class DiagnosedModel:
    """A model, the images it classifies right, and what is known of it so far; arguments as `diagnose`.

    Attributes:
        every_x, every_y: all N images and labels.
        x, y: the n images that the model classifies right, and their labels; attacks start there.
        outputs, right_outputs: (N, C) of all images, (n, C) of those.
        robust: how many of the n images are robust to the strongest attack so far, for estimates of cost.
        seconds_a_pass: of one image forward and backward, the latest measurement.
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: Norm, seed: int) -> None:
        self.model, self.every_x, self.every_y = contracted(model), x, y
        self.eps, self.norm, self.seed = eps, norm, seed
        self.outputs = self.forward(self.every_x)
        self.classes = self.outputs.shape[1]
        check_labels(y, self.classes)
        right = self.outputs.argmax(1) == y
        self.x, self.y = self.every_x[right], y[right]
        self.right_outputs = self.outputs[right]
        self.robust = self.n = len(self.y)
        self.seconds_a_pass = 0.0
        self._broken: dict[tuple[float, int, int], Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        """(n, C) finite outputs of (n, ...) images, in eval mode and full float32."""
        with attacked(self.model), torch.autocast(x.device.type, enabled=False):
            wrapped = WrappedModel(self.model)
            return torch.cat([wrapped.logits(part) for part in parts(x)])

    def generator(self) -> torch.Generator:
        """A source of random starts, the same for every attack, so that none has the better ones."""
        return torch.Generator().manual_seed(self.seed % 2**63)

    def largest_gradients(self, function: LogitObjective, x: Tensor) -> Tensor:
        """(n,) largest magnitudes of the gradients of a function of (outputs, labels) by n images, one each of `y`.

        NaN or infinite where an entry is.
        """
        begun, largest = time.perf_counter(), [x.new_zeros(0)]
        with attacked(self.model), torch.autocast(x.device.type, enabled=False), torch.enable_grad():
            for part, labels in zip(parts(x), parts(self.y), strict=True):
                part = part.clone().requires_grad_(True)
                values = function(_Connected(self.model)(part), labels)
                gradient = image_gradient(values, part)
                largest.append(gradient.flatten(1).abs().amax(1))
        self.seconds_a_pass = (time.perf_counter() - begun) / max(len(x), 1)
        return torch.cat(largest)

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
        step_size = eps if steps == 1 else 2.5 * eps / steps
        run = partial(pgd, _Connected(self.model), eps=eps, norm=self.norm, steps=steps, step_size=step_size)
        run = partial(run, restarts=restarts, objective=objective, generator=self.generator())
        pairs = zip(parts(self.x), parts(self.y), strict=True)
        ends = [run(part, labels, random_start=random_start, keep=keep) for part, labels in pairs]
        return torch.cat(ends) if ends else self.x.clone()

    def misled(self, x: Tensor) -> Tensor:
        """(n,) bool, whether the model misclassifies these points, one each of `self.y`."""
        broken = self.forward(x).argmax(1) != self.y
        self.robust = min(self.robust, int((~broken).sum()))
        return broken

    def broken(self, *, eps: float, steps: int = STEPS, restarts: int = RESTARTS) -> Tensor:
        """(n,) bool, the images that PGD on the cross-entropy of the outputs breaks; each run is made once."""
        key = (eps, steps, restarts)
        if key not in self._broken:
            self._broken[key] = self.misled(self.climbed(eps=eps, steps=steps, restarts=restarts))
        return self._broken[key]
