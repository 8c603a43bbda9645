"""Networks that were not written for corral as backbones: where in them the features are."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from corral.errors import CorralError, closest
from corral.models.backbones.backbone import Backbone, Shape
from corral.models.contract import reason_of
from corral.models.modes import eval_mode

# Where a network keeps the linear layer that decides: torchvision's names, and those of Hugging Face's models.
CLASSIFIERS = ("fc", "classifier", "heads", "head")
# Of what a network returns beside a tensor, what its features are called, the most specific first.
NAMED = ("features", "pooler_output", "x_norm_clstoken", "last_hidden_state", "logits")
# Layers that a message names.
SHOWN = 12


class _ReachedError(BaseException):
    """A layer has given its output: what follows it is not computed. No error, so that no network catches it."""


class Adapted(Backbone):
    """A network whose features are not what its `forward` returns as an (N, d) tensor.

    Outputs of a dictionary or of an object with named parts are taken by their name (`pooler_output`,
    `last_hidden_state` ...). Maps (N, d, H, W) are averaged over their pixels, tokens (N, T, d) over the tokens.

    Args:
        net: images to features in whatever form.
        layer: the name of the submodule whose first output they are; nothing behind it is computed. None for what
            `call` returns.
        call: the method of the network that gives them.
    """

    def __init__(self, net: nn.Module, *, layer: str | None = None, call: str = "forward") -> None:
        super().__init__()
        self.net, self.layer, self.call = net, layer, call

    def forward(self, x: Tensor) -> Tensor:
        """(N, d) features of (N, C, H, W) images.

        Raises:
            ValueError: the network gives nothing that could be features, or never calls the layer.
        """
        return pooled(named_features(self.raw(x)))

    def raw(self, x: Tensor) -> Any:
        """What the network gives for images, in its own form."""
        if self.layer is not None:
            return _output_of(self.net, self.layer, x)
        return self.net(x) if self.call == "forward" else getattr(self.net, self.call)(x)


class _Place(NamedTuple):
    """Where in a network its features are, and that in words."""

    words: str
    layer: str | None = None
    call: str = "forward"


def adapt(net: nn.Module, shape: Shape, layer: str | None = None) -> Backbone:
    """A network as a backbone, with `features_dim` found by a forward pass of one black image.

    Its features are, the first that there is: the output of `layer`; what a module with `features_dim` returns; the
    input of its classifier, that is of timm's (`reset_classifier`) or of a last linear layer called fc, classifier,
    heads or head whose output the network returns; what `forward_features` returns; what it returns. A classifier is
    replaced by the identity, in `net` itself.

    Args:
        net: images (N, channels, H, W) to features, or to a classifier's outputs behind them.
        shape: (channels, H, W) of the images.
        layer: a submodule's name, such as "layer4" or "blocks.11.norm1".

    Returns:
        The backbone; `features_source` of it says in words where its features are.

    Raises:
        ValueError: no such layer, a network that fails on such images, no (N, d) features, or a wrong `features_dim`.
    """
    if isinstance(net, Backbone) and layer is None and hasattr(net, "features_dim"):
        return net
    place = _layer(net, layer) if layer is not None else _features(net, shape)
    adapted = Adapted(net, layer=place.layer, call=place.call)
    backbone: Backbone = adapted
    output, words = probed(adapted, shape, adapted.raw), place.words
    if place.layer is None and place.call == "forward" and isinstance(output, Tensor) and output.dim() == 2:
        backbone = cast(Backbone, net)
    elif how := _averaged(output):
        words = f"{words}, {how}"
    found = pooled(named_features(output)).shape[1]
    if getattr(backbone, "features_dim", found) != found:
        raise ValueError(f"it gives {found} features, its features_dim says {backbone.features_dim}")
    backbone.features_dim = found
    backbone.features_source = words
    return backbone


def _layer(net: nn.Module, layer: str) -> _Place:
    known = [name for name, _ in net.named_modules() if name]
    if layer not in known:
        listed = [name for name, _ in net.named_children()][:SHOWN]
        raise ValueError(f"it has no layer {layer!r}{closest(layer, known)}; its parts: {', '.join(listed) or 'none'}")
    return _Place(f"the output of layer {layer!r}", layer)


def _features(net: nn.Module, shape: Shape) -> _Place:
    """Where the features of a network are; a classifier behind them becomes the identity."""
    if hasattr(net, "features_dim"):
        return _Place("what it returns")
    if callable(reset := getattr(net, "reset_classifier", None)):
        try:
            reset(0)
        except Exception as error:  # foreign code: anything can come
            raise ValueError(f"its reset_classifier(0) failed ({reason_of(error)}); name a layer") from error
        return _Place("the input of its classifier")
    if (place := last_linear(net, shape)) is not None:
        parent, _, name = place.rpartition(".")
        setattr(net.get_submodule(parent), name, nn.Identity())
        return _Place(f"the input of its classifier {place!r}")
    if callable(getattr(net, "forward_features", None)):
        return _Place("what its forward_features returns", call="forward_features")
    return _Place("what it returns")


def last_linear(net: nn.Module, shape: Shape) -> str | None:
    """The name of a network's last linear layer, if it is called a classifier and its output is the network's."""
    for name in CLASSIFIERS:
        part = getattr(net, name, None)
        if not isinstance(part, nn.Linear | nn.Sequential):
            continue
        place, last = [*((name if not path else f"{name}.{path}", leaf) for path, leaf in part.named_modules())][-1]
        if isinstance(last, nn.Linear):
            given: list[Tensor] = []
            handle = last.register_forward_hook(lambda _module, _inputs, output, given=given: given.append(output))
            try:
                output = probed(net, shape, net)
            except ValueError:  # such as a trunk whose own forward is of no use
                continue
            finally:
                handle.remove()
            named = named_features(output, ("logits",))
            if len(given) == 1 and isinstance(named, Tensor) and torch.equal(named, given[0]):
                return place
    return None


def probed(net: nn.Module, shape: Shape, function: Callable[[Tensor], Any]) -> Any:
    """What a function of a network returns for a black image, in eval mode, drawing none of torch's random numbers.

    Raises:
        ValueError: it failed.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad(), eval_mode(net):
        tensors = [*net.parameters(), *net.buffers()]
        try:
            return function(torch.zeros(1, *shape, device=tensors[0].device if tensors else None))
        except (CorralError, ValueError, MemoryError):
            raise
        except Exception as error:  # foreign code: anything can come
            raise ValueError(f"it fails on an image of {shape} (C, H, W): {reason_of(error)}") from error


def named_features(found: Any, names: tuple[str, ...] = NAMED) -> Any:
    """The tensor of features in what a network returned; whatever it is, where there is none of these names."""
    for name in names:
        part = _part(found, name)
        if isinstance(part, Tensor) and not isinstance(found, Tensor):
            return part
    return found


def pooled(found: Any) -> Tensor:
    """(N, d) features of (N, d) features, (N, d, H, W) maps or (N, T, d) tokens.

    Raises:
        ValueError: something else.
    """
    if not isinstance(found, Tensor) or found.dim() not in (2, 3, 4):
        shape = f" of shape {tuple(found.shape)}" if isinstance(found, Tensor) else ""
        raise ValueError(
            f"it gives a {type(found).__name__}{shape}, expected features (N, d), maps (N, d, H, W), tokens (N, T, d), "
            f"or one of these by the name {', '.join(NAMED)}; name a layer that gives them"
        )
    return found.mean((2, 3)) if found.dim() == 4 else found.mean(1) if found.dim() == 3 else found


def _averaged(found: Any) -> str:
    """In words, how features come from what a network returned."""
    part = named_features(found)
    named = [name for name in NAMED if part is not found and _part(found, name) is part]
    pools = {3: "averaged over tokens", 4: "averaged over pixels"}
    return ", ".join([*named, *(words for rank, words in pools.items() if getattr(part, "ndim", 0) == rank)])


def _part(found: Any, name: str) -> Any:
    return found.get(name) if isinstance(found, Mapping) else getattr(found, name, None)


def _output_of(net: nn.Module, layer: str, x: Tensor) -> Any:
    """What a layer of a network gives the first time that it is called for images."""

    found_here: list[Any] = []

    def reached(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if not torch.compiler.is_compiling():
            raise _ReachedError(output)
        found_here.append(output)  # a graph has no exceptions; what lies behind is left out of it, as nothing uses it

    handle = net.get_submodule(layer).register_forward_hook(reached)
    try:
        net(x)
        if found_here:
            return found_here[0]
    except _ReachedError as found:
        return found.args[0]
    finally:
        handle.remove()  # in every call, for a copy of the network would keep the original's hook
    raise ValueError(f"it never calls its layer {layer!r}; name another")
