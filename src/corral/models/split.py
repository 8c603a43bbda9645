"""A trained network as a backbone and a linear head, which together are the network."""

import torch
from torch import Tensor, nn

from corral.errors import UsageError
from corral.models.backbones.adapted import adapt, last_linear, named_features, probed
from corral.models.backbones.backbone import Shape
from corral.models.backbones.base import Given
from corral.models.classifier import Classifier
from corral.models.contract import bare
from corral.models.heads import LinearHead
from corral.models.statistics import Statistics, channel_statistics

# How far the parts' logits may be from the network's, relative to the largest: the same operations in another order.
LOOSE = 1e-4


def split(net: nn.Module, shape: Shape, *, normalise: str | Statistics | None = None) -> Classifier:
    """A copy of a trained classifier network as a `Classifier`: its last linear layer is the head.

    Args:
        net: images (N, channels, H, W) to logits, by a last linear layer that `corral.models.backbones.adapt` finds.
        shape: (channels, H, W).
        normalise: what its inputs are normalised by, as `channel_statistics` takes it; None where it takes pixels in
            [0, 1].

    Returns:
        The classifier, in the network's mode; its logits are the network's to rounding, which is checked.

    Raises:
        UsageError: no last linear layer is evident, or the parts together are not the network.
        CorralError: it cannot be copied.
    """
    net = bare(net)
    if isinstance(net, Classifier):
        return net
    twin = Given(net)()
    linear = _last(twin, shape)
    if linear is None:
        raise UsageError(
            f"in a {type(net).__name__} no last linear layer is evident, so its features are not known: cluster it by "
            "corral.cluster(net, data, features='a layer of it')"
        )
    try:
        backbone = adapt(twin, shape)
    except ValueError as error:
        raise UsageError(f"a {type(net).__name__}: {error}") from error
    head = LinearHead(linear.in_features, linear.out_features).to(linear.weight.device, linear.weight.dtype)
    with torch.no_grad():
        head.linear.weight.copy_(linear.weight)
        head.linear.bias.copy_(torch.zeros_like(head.linear.bias) if linear.bias is None else linear.bias)
    mean, std = channel_statistics(normalise, shape[0])
    if backbone.features_dim == head.features_dim:
        model = Classifier(backbone, head, mean, std, image_size=shape[1:]).to(linear.weight.device)
        if _equal(model, net, shape):
            return model.train(net.training)
    raise UsageError(
        f"a {type(net).__name__} is not its features and its last linear layer, so these are not known: cluster it by "
        "corral.cluster(net, data, features='a layer of it')"
    )


def _last(net: nn.Module, shape: Shape) -> nn.Linear | None:
    """The linear layer that gives a network's logits."""
    given = getattr(net, "get_classifier", None)  # timm's
    layer = given() if callable(given) else None
    if isinstance(layer, nn.Linear):
        return layer
    place = last_linear(net, shape)
    found = None if place is None else net.get_submodule(place)
    return found if isinstance(found, nn.Linear) else None


def _equal(model: Classifier, net: nn.Module, shape: Shape) -> bool:
    """Whether a classifier's logits of a black image are a network's of that image, normalised."""

    def of_parts(black: Tensor) -> Tensor:
        return model.logits_from(model.backbone(black).to(black.dtype))

    expected = named_features(probed(net, shape, net), ("logits",))
    found = probed(model, shape, of_parts)
    scale = float(expected.abs().max().clamp_min(1e-6))
    return bool((found - expected).abs().max() <= LOOSE * scale)
