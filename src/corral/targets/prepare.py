"""How images in [0, 1] become the inputs of the model under audit, so that every attack is in pixel units."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from corral.models.classifier import Normalisation
from corral.models.contract import contracted
from corral.models.statistics import STATISTICS


@dataclass(frozen=True)
class Preparation:
    """How images in [0, 1] become what the model was trained on: scaled, then normalised, then reordered.

    Attributes:
        scale: pixels are multiplied by it.
        mean, std: one number a channel, or one for all; of the scaled pixels. None leaves them.
        bgr: the channels are reversed.
        nhwc: the model takes (N, H, W, C).
        offset: what is added to the data's labels to get the model's.
    """

    scale: float = 1.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    bgr: bool = False
    nhwc: bool = False
    offset: int = 0

    def options(self) -> list[str]:
        """The command line's options that ask for this."""
        parts = []
        if self.scale != 1:
            parts.append(f"--scale {self.scale:g}")
        if self.mean is not None and self.std is not None:
            known = [name for name, pair in STATISTICS.items() if pair == (self.mean, self.std)]
            spelled = "/".join(",".join(f"{value:.6g}" for value in values) for values in (self.mean, self.std))
            parts.append(f"--normalise {known[0] if known else spelled}")
        parts += [option for option, wanted in (("--bgr", self.bgr), ("--nhwc", self.nhwc)) if wanted]
        if self.offset:
            parts.append(f"--label-offset {self.offset}")
        return parts


class Prepared(nn.Module):
    """A model behind its preparation: images (N, C, H, W) in [0, 1] in, logits out; `log` of its probabilities."""

    def __init__(self, model: nn.Module, preparation: Preparation, device: torch.device, *, log: bool) -> None:
        super().__init__()
        self.model, self.preparation, self.log = model, preparation, log
        self.normalisation: Normalisation | None = None
        if preparation.mean is not None and preparation.std is not None:
            self.normalisation = Normalisation(preparation.mean, preparation.std).to(device)
        self.training = model.training

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images in [0, 1]."""
        if self.preparation.scale != 1:
            x = x * self.preparation.scale
        if self.normalisation is not None:
            x = self.normalisation(x)
        if self.preparation.bgr:
            x = x.flip(1)
        if self.preparation.nhwc:
            x = x.permute(0, 2, 3, 1)
        output: Tensor = self.model(x)
        # A probability that has underflowed to 0 has no logarithm and no gradient; the diagnostics count those.
        return output.clamp_min(torch.finfo(output.dtype).tiny).log() if self.log else output


def prepared(model: nn.Module, preparation: Preparation, device: torch.device, *, log: bool = False) -> nn.Module:
    """The model behind its contract, its preparation and a logarithm, as far as there are the last two.

    Raises:
        UsageError: a number of means that no image can have.
    """
    plain = replace(preparation, offset=0) == Preparation() and not log
    model = contracted(model)
    return model if plain else Prepared(model, preparation, device, log=log)
