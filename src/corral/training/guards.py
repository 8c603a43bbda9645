"""Guards against numbers that are not finite: a run stops with one line that names the step."""

import torch
from torch import Tensor, nn

from corral.errors import CorralError
from corral.training.run import Run


class DivergedError(CorralError):
    """A loss or a weight of a training is not finite."""


class FiniteGuard:
    """The losses of an epoch's steps and the weights after them; a GPU's losses are checked 25 at a time.

    A message names what was not finite first: the weights, if they were so before the loss, which means that the
    gradients of the step before were.

    Args:
        model: that is trained.
        epoch: which epoch, in words.
        before: the epoch whose checkpoint there may be, in words.
        folder: of the run, to say which checkpoint there is.
        device: of the losses.
    """

    def __init__(self, model: nn.Module, epoch: str, before: str, folder: Run, device: torch.device) -> None:
        self.model, self.epoch, self.before, self.folder = model, epoch, before, folder
        self.every = 1 if device.type == "cpu" else 25
        self.pending: list[Tensor] = []
        self.steps = 0

    def add(self, loss: Tensor) -> None:
        """Take the next step's loss; may check.

        Raises:
            CorralError: a loss that was checked is not finite.
        """
        self.pending.append(loss.detach())
        self.steps += 1
        if len(self.pending) == self.every:
            self.check()

    def check(self) -> None:
        """Check the losses that were not checked yet.

        Raises:
            CorralError: one is not finite.
        """
        finite = torch.isfinite(torch.stack(self.pending)) if self.pending else torch.ones(1, dtype=torch.bool)
        if not bool(finite.all()):
            step = self.steps - len(self.pending) + int((~finite).nonzero()[0]) + 1
            # Later steps of a device that is checked seldom would have spoilt the weights as well.
            name = self._spoilt() if self.every == 1 else None
            after = f": after step {step - 1} the weights {name} were not, so neither were their gradients"
            raise self._error(f"the loss is not finite at step {step}", after if name and step > 1 else "")
        self.pending.clear()

    def check_weights(self) -> None:
        """Check the weights after an epoch, since no later loss follows from the last updates.

        Raises:
            CorralError: a weight is not finite.
        """
        if (name := self._spoilt()) is not None:
            raise self._error(f"the weights {name} are not finite after step {self.steps}")

    def _spoilt(self) -> str | None:
        """The first tensor of the model that is not finite."""
        held = self.model.state_dict().items()
        return next((name for name, tensor in held if not bool(torch.isfinite(tensor).all())), None)

    def _error(self, what: str, after: str = "") -> DivergedError:
        state = self.folder.state_file
        there = f"; the checkpoint of {self.before} is kept in {state}" if state.is_file() else ""
        return DivergedError(f"{what} of {self.epoch}{after}; lower the learning rate{there}")
