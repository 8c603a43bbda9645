"""Layers whose weight is a function of free parameters: recomputed while training, frozen in eval mode."""

import torch
from torch import Tensor, nn

# Unit roundoff of the float64 arithmetic that the bounds are computed in.
UNIT = 2.0**-53


class FrozenLayer(nn.Module):
    """A layer that computes with *effective* tensors, a function of its parameters.

    In train mode they are recomputed in every forward pass, with gradient. In eval mode they are computed once, in
    float64, rounded to the parameters' dtype and kept: evaluation is fast, deterministic and as close to the constraint
    as the dtype allows. What is kept is dropped by `train()` and `eval()` and not used where a parameter has changed
    since, in place (an optimiser's step, `load_state_dict`) or by another memory (`to`, a copy). An eval-mode pass has
    no gradient to the layer's parameters, only to its input.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: tuple[object, tuple[Tensor, ...]] | None = None

    def free(self) -> tuple[Tensor, ...]:
        """The parameters that `constrain` is a function of."""
        raise NotImplementedError  # abstract

    def constrain(self, *free: Tensor) -> tuple[Tensor, ...]:
        """The effective tensors of free ones, of their dtype, with gradient."""
        raise NotImplementedError  # abstract

    def effective(self) -> tuple[Tensor, ...]:
        """The tensors that the forward pass computes with, in the mode that the layer is in."""
        free = self.free()
        if self.training:
            with torch.autocast(free[0].device.type, enabled=False):
                return self.constrain(*free)
        if self._kept is not None and torch.compiler.is_exporting():
            # Parameters have no memory there to know them by; the pass before kept what they give.
            return self._kept[1]
        key = tuple((tensor.data_ptr(), tensor._version, tensor.dtype, tensor.device) for tensor in free)
        if self._kept is None or self._kept[0] != key:
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(free[0].device.type, enabled=False):
                found = self.constrain(*(tensor.double() for tensor in free))
                self._kept = key, tuple(tensor.to(free[0].dtype) for tensor in found)
        return self._kept[1]

    def train(self, mode: bool = True) -> "FrozenLayer":
        """Switch the mode; frozen tensors are dropped."""
        self._kept = None
        super().train(mode)
        return self

    def lipschitz_bound(self, input_shape: tuple[int, ...]) -> float:
        """A guaranteed upper bound on the layer's l2 Lipschitz constant in eval mode, for every size of input.

        It is computed in float64 from the rounded tensors that the eval-mode pass uses, whichever mode the layer is in.

        Args:
            input_shape: of the layer's input; the bound does not depend on it.
        """
        kept, training = self._kept, self.training
        try:
            self.training = False
            return self._bound(*(tensor.detach().double().cpu() for tensor in self.effective()))
        finally:
            self._kept, self.training = kept, training

    def _bound(self, *effective: Tensor) -> float:
        """The bound from float64 copies of the effective tensors."""
        raise NotImplementedError  # abstract
