"""Weight averaging: the network that is measured and saved is a mean of those that training went through."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from corral.models import Classifier
from corral.training.recipes.recipe import WeightAveraging


class WeightAverage:
    """The exponential or the equal mean of all numbers of some modules, buffers (BatchNorm's statistics) included.

    Exponential, of decay tau (EMA): mean_0 are the weights at the beginning, and step t = 0, 1, ... makes it
    d mean_t + (1 - d) w_t with d = min(tau, (1 + t) / (10 + t)), so that the first weights are soon forgotten.
    Equal (SWA, Izmailov et al. 2018): the mean of the weights at the end of epoch `swa_from` and of each epoch after
    it. Whole numbers are those of training.

    Args:
        modules: by name; what is averaged are their parameters and buffers.
        options: which mean.
    """

    def __init__(self, modules: dict[str, nn.Module], options: WeightAveraging) -> None:
        self.live, self.options = nn.ModuleDict(modules), options
        self.mean = AveragedModel(self.live, avg_fn=self._averaged, use_buffers=True)
        if options.decay is not None:
            self.mean.update_parameters(self.live)  # which is mean_0

    @property
    def model(self) -> Classifier:
        """The one named "model", with the mean's numbers."""
        return cast(Classifier, cast(nn.ModuleDict, self.mean.module)["model"])

    def after_step(self) -> None:
        """Take a step's weights into an exponential mean."""
        if self.options.decay is not None:
            self.mean.update_parameters(self.live)

    def after_epoch(self, number: int) -> None:
        """Take the weights of the epoch of a number, from 1, into an equal mean."""
        if self.options.swa_from is not None and number >= self.options.swa_from:
            self.mean.update_parameters(self.live)

    @property
    def begun(self) -> bool:
        """Whether there is a mean yet."""
        return int(self.mean.n_averaged) > 0

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Hold the modules at the mean; their own numbers come back afterwards, whatever was fitted to the mean's."""
        own = {name: tensor.detach().clone() for name, tensor in self.live.state_dict().items()}
        self.live.load_state_dict(self.mean.module.state_dict())
        try:
            yield
        finally:
            self.live.load_state_dict(own)

    def tensors(self) -> dict[str, Tensor]:
        """The state, for a checkpoint."""
        return self.mean.state_dict()

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave.

        Raises:
            RuntimeError: the tensors are of other modules.
        """
        self.mean.load_state_dict(tensors)

    def _averaged(self, mean: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        """The next mean of a tensor; `count` means were made before, mean_0 among them."""
        if not mean.is_floating_point():
            return current
        count = torch.as_tensor(count, device=mean.device)
        if self.options.decay is None:
            share = 1 / (count + 1)
        else:
            share = 1 - (count / (9 + count)).clamp_max(self.options.decay)  # t = count - 1
        return torch.lerp(mean, current, share.to(mean.dtype))
