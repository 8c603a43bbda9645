"""Guards against numbers that are not finite: a run stops with one line that names the step."""

import torch
from torch import Tensor, nn

from corral.errors import CorralError
from corral.training.run import RunFolder


class FiniteLosses:
    """The losses of an epoch's steps, looked at a few at a time where each look waits for the device.

    Args:
        epoch: the epochs done before this one.
        folder: of the run, to say which checkpoint is kept.
        device: of the losses.
    """

    def __init__(self, epoch: int, folder: RunFolder, device: torch.device) -> None:
        self.epoch, self.folder = epoch, folder
        self.every = 1 if device.type == "cpu" else 25
        self.pending: list[Tensor] = []
        self.steps = 0

    def add(self, loss: Tensor) -> None:
        """Take the next step's loss.

        Raises:
            CorralError: it was time to look, and a loss is not finite.
        """
        self.pending.append(loss.detach())
        self.steps += 1
        if len(self.pending) == self.every:
            self.check()

    def check(self) -> None:
        """Look at the losses that nobody has looked at.

        Raises:
            CorralError: one is not finite.
        """
        if not self.pending:
            return
        finite = torch.isfinite(torch.stack(self.pending))
        if not bool(finite.all()):
            step = self.steps - len(self.pending) + int((~finite).nonzero()[0]) + 1
            raise CorralError(
                f"the loss is not finite at step {step} of epoch {self.epoch + 1}: "
                f"lower the learning rate{_kept(self.folder, self.epoch)}"
            )
        self.pending.clear()


def require_finite_weights(model: nn.Module, *, epoch: int, steps: int, folder: RunFolder) -> None:
    """Look at the weights after an epoch: the last steps' updates have no later loss to show what they did.

    Args:
        epoch: the epochs done before this one.
        steps: the steps of this one.

    Raises:
        CorralError: a weight is not finite.
    """
    if not all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values()):
        raise CorralError(
            f"the weights are not finite after step {steps} of epoch {epoch + 1}: "
            f"lower the learning rate{_kept(folder, epoch)}"
        )


def _kept(folder: RunFolder, epoch: int) -> str:
    return f"; the checkpoint of epoch {epoch} is kept in {folder.state}" if folder.state.is_file() else ""
