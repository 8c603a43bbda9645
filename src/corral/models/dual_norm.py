"""Dual BatchNorm: statistics and scales of clean and of adversarial batches apart (Xie et al. 2020; ACL)."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, get_args

from torch import Tensor, nn

Branch = Literal["clean", "adversarial"]
# What the adversarial branch's tensors are called inside a layer's own.
SECOND = "adversarial"


class DualBatchNorm2d(nn.BatchNorm2d):
    """Two BatchNorm layers in the place of one; `branch` says which of them a batch goes through.

    Its own parameters and buffers are the clean branch, under the names that a single layer has.
    """

    branch: Branch

    def __init__(self, single: nn.BatchNorm2d) -> None:
        """Both branches begin as the single layer is.

        Args:
            single: the layer to replace; nothing of it is shared.
        """
        super().__init__(single.num_features, single.eps, single.momentum, single.affine, single.track_running_stats)
        self.load_state_dict(single.state_dict())
        self.adversarial = copy.deepcopy(single)
        self.branch = "clean"
        self.train(single.training)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) maps normalised by the branch."""
        normalised: Tensor = self.adversarial(input) if self.branch == "adversarial" else super().forward(input)
        return normalised


def make_dual(module: nn.Module) -> int:
    """Put a `DualBatchNorm2d` in the place of every BatchNorm2d inside a module; returns how many there were."""
    count = 0
    for name, child in list(module.named_children()):
        if isinstance(child, DualBatchNorm2d):
            continue
        if isinstance(child, nn.BatchNorm2d):
            dual = DualBatchNorm2d(child)
            setattr(module, name, dual.to(child.weight.device) if child.affine else dual)
            count += 1
        else:
            count += make_dual(child)
    return count


@contextmanager
def using(module: nn.Module, branch: Branch) -> Iterator[None]:
    """Send batches through one branch in the block, and then through the one that each layer had.

    Raises:
        ValueError: another branch.
    """
    if branch not in get_args(Branch):
        raise ValueError(f"branch {branch!r} is not one of {', '.join(get_args(Branch))}")
    layers = [layer for layer in module.modules() if isinstance(layer, DualBatchNorm2d)]
    before = [layer.branch for layer in layers]
    try:
        for layer in layers:
            layer.branch = branch
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            layer.branch = own


def single_branch(tensors: Mapping[str, Tensor], branch: Branch) -> dict[str, Tensor]:
    """A dual module's state with one branch alone, under the names of single layers; other layers as they are."""
    second = f".{SECOND}."
    single = {name: tensor for name, tensor in tensors.items() if second not in f".{name}"}
    if branch == "clean":
        return single
    return single | {f".{name}".replace(second, ".")[1:]: tensors[name] for name in tensors if name not in single}
