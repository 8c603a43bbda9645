"""The memory format of images for convolutions."""

from torch import Tensor, nn

from corral.models.pointwise import Pointwise

# Where the modules come from of which we know what they compute: torch's own layers, parametrized or not, and ours.
KNOWN = ("torch.nn.modules.", "torch.nn.utils.parametri", "corral.models.")


def channels_last(x: Tensor, network: nn.Module) -> Tensor:
    """(N, C, H, W) images with a pixel's channels adjacent in memory, where that is faster and safe; else x itself.

    Faster: on a CPU. Narrow networks take 0.4 to 0.8 of the time, wide ones the same (`benchmarks/layout.py`); values
    differ by rounding alone. Safe: where `takes_channels_last` says so. Gradients come back in the usual order, so that
    attacks that flatten them by `view` work.
    """
    if x.device.type != "cpu" or not takes_channels_last(network):
        return x
    channels, height, width = x.shape[1:]
    images = x.view_as(x)  # a tensor of this call alone, to hang the hook on
    if images.requires_grad:
        images.register_hook(_usual_order)  # type: ignore[no-untyped-call]
    # By `contiguous(memory_format=...)` images of one channel would keep their order, and so would the convolutions.
    rows = images.permute(0, 2, 3, 1).flatten(1)
    return rows.view(-1, height, width, channels).permute(0, 3, 1, 2)


def takes_channels_last(network: nn.Module) -> bool:
    """Whether a network consists of torch's and corral's layers alone, none of them a strided 1×1 `nn.Conv2d`.

    That layer's weight gradient writes outside its memory with channels last (see `Pointwise`, which does not); what a
    module of another origin computes is unknown.
    """
    return all(_harmless(module) for module in network.modules())


def _harmless(module: nn.Module) -> bool:
    if not type(module).__module__.startswith(KNOWN) or "forward" in vars(module):
        return False
    strided = isinstance(module, nn.Conv2d) and max(module.stride) > 1 and max(module.kernel_size) == 1
    return not strided or isinstance(module, Pointwise)


def _usual_order(gradient: Tensor | None) -> Tensor | None:
    """A gradient as attacks expect it; a second derivative may have none."""
    return None if gradient is None else gradient.contiguous()
