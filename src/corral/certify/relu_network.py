"""A small ReLU network as its matrices, with its Jacobian at points and what rounding can do to both."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from corral.errors import UsageError
from corral.geometry.radii.rounding import inner_product_error
from corral.models import MLP, Classifier
from corral.models.classifier import Normalisation
from corral.models.modes import eval_mode
from corral.models.plain import join, kind_of, require_plain

# The attributes that run one after the other; of a Sequential all.
CONTAINERS: dict[type[nn.Module], tuple[str, ...]] = {
    Classifier: ("normalisation", "backbone"),
    MLP: ("layers",),
    nn.Sequential: (),
}


@dataclass(frozen=True)
class ReluNetwork:
    """Affine layers, each followed by a ReLU or not.

    Attributes:
        weights: (m, n) each, float64.
        biases: (m,) each, float64.
        rectified: whether a ReLU follows.
        ties: (2, pairs) neurons of a layer that are multiples of each other, and (pairs,) whether positive ones.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    rectified: tuple[bool, ...]
    ties: tuple[tuple[Tensor, Tensor], ...]

    @property
    def inputs(self) -> int:
        """n, the length of an input row."""
        return self.weights[0].shape[1]

    @property
    def product(self) -> float:
        """The product of the weights' Frobenius norms: no Jacobian is larger, and rounding errors scale with it."""
        return math.prod(float(weight.norm()) for weight in self.weights) * (1 + 1e-9)

    @property
    def jacobian_error(self) -> float:
        """By how much a computed Jacobian can be off, in norm."""
        return float(inner_product_error(sum(weight.shape[1] for weight in self.weights), torch.tensor(self.product)))

    def value_errors(self, reach: float) -> list[float]:
        """By how much each layer's computed values can be off, its ReLU chosen wrongly or not, for ||x|| <= reach."""
        found, error, length = [], 0.0, reach
        for weight, bias in zip(self.weights, self.biases, strict=True):
            norm = float(weight.norm()) * (1 + 1e-9)
            length = norm * length + float(bias.norm())
            rounding = inner_product_error(weight.shape[1] + self.inputs, torch.tensor(length))
            # A neuron whose sign is lost in the rounding may be taken for off: as wrong again.
            error = 2 * norm * error + float(rounding)
            found.append(error)
        return found


def relu_network(module: nn.Module) -> ReluNetwork:
    """The matrices of an MLP, of a classifier's normalisation and MLP, or of an nn.Sequential of Linear and ReLU.

    Raises:
        UsageError: another module, a subclass of these among them; something besides them that may run
            (`models.plain`); no linear layer.
        ValueError: weights that are not finite.
    """
    weights, biases, rectified, scalings = list[Tensor](), list[Tensor](), list[bool](), list[tuple[Tensor, Tensor]]()
    # Of a weight parametrized by spectral_norm, reading it changes it in train mode.
    with eval_mode(module):
        for path, layer in _layers(module, ""):
            require_plain(layer, path)
            kind = kind_of(layer)
            if kind is nn.Linear:
                assert isinstance(layer, nn.Linear)
                weight = layer.weight.detach().double().cpu()
                bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().double().cpu()
                weights, biases, rectified = [*weights, weight], [*biases, bias], [*rectified, False]
            elif kind is nn.ReLU and weights:
                rectified[-1] = True
            elif kind is Normalisation and not weights:
                assert isinstance(layer, Normalisation)
                scalings.append((layer.mean.detach().double().cpu(), layer.std.detach().double().cpu()))
            elif kind not in (*CONTAINERS, nn.Flatten, nn.Identity):
                raise UsageError(
                    "branch and bound needs an MLP or an nn.Sequential of Linear and ReLU that starts with a Linear, "
                    f"found {kind.__name__}"
                )
    if not weights:
        raise UsageError("branch and bound needs at least one Linear layer, found none")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in (*weights, *biases)):
        raise ValueError("weights must be finite, found NaN or infinity")
    for mean, std in reversed(scalings):
        # (x - mean) / std as a layer of its own: one rounding an entry, within what the errors allow for.
        pixels = weights[0].shape[1] // len(std)
        weights.insert(0, torch.diag((1 / std).repeat_interleave(pixels)))
        biases.insert(0, (-mean / std).repeat_interleave(pixels))
        rectified.insert(0, False)
    ties = [_ties(weight, bias) for weight, bias in zip(weights, biases, strict=True)]
    return ReluNetwork(tuple(weights), tuple(biases), tuple(rectified), tuple(ties))


def _layers(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules that run, containers among them, in order and by path."""
    yield path, module
    kind = kind_of(module)
    named = [(name, getattr(module, name)) for name in CONTAINERS.get(kind, ())]
    children: Iterable[tuple[str, Any]] = module._modules.items() if kind is nn.Sequential else named
    for name, child in children:
        yield from _layers(child, join(path, name))


def _ties(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of neurons that are multiples of each other, in exact fractions: their ReLUs are tied everywhere."""
    seen: dict[tuple[Fraction, ...], list[tuple[int, bool]]] = {}
    pairs: list[tuple[int, int]] = []
    equal: list[bool] = []
    for neuron, row in enumerate(torch.cat([weight, bias.unsqueeze(1)], 1).tolist()):
        lead = next((Fraction(value) for value in row if value), Fraction(1))
        others = seen.setdefault(tuple(Fraction(value) / lead for value in row), [])
        pairs += [(other, neuron) for other, _ in others]
        equal += [positive == (lead > 0) for _, positive in others]
        others.append((neuron, lead > 0))
    return torch.tensor(pairs, dtype=torch.long).view(-1, 2).T, torch.tensor(equal, dtype=torch.bool)


def jacobians(network: ReluNetwork, points: Tensor) -> tuple[Tensor, Tensor]:
    """(P, d, n) Jacobians at (P, n) points, and (P,) whether the network is surely affine around the point."""
    errors = network.value_errors(float(points.norm(dim=1).max()))
    slope, values = torch.eye(network.inputs, dtype=torch.float64).expand(len(points), -1, -1), points
    sure = torch.ones(len(points), dtype=torch.bool)
    for weight, bias, rectified, error in zip(network.weights, network.biases, network.rectified, errors, strict=True):
        slope, values = weight @ slope, values @ weight.T + bias
        if rectified:
            sure = sure & ((values.abs() > error) | (slope == 0).all(2)).all(1)
            slope, values = slope * (values > 0).unsqueeze(2), values.clamp_min(0)
    return slope, sure
