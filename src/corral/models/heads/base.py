"""The interface of heads: features to logits, descriptions, radii."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from corral.errors import UsageError
from corral.models.plain import require_plain_inside
from corral.notebook import Shown
from corral.options import option_names, read_options
from corral.registry import Registry

# Parameters of a head's `__init__` that are no options.
GIVEN = ("features", "classes")
Spec = dict[str, Any]
"""A head as JSON can hold it: its `name` in the registry, and its options."""


@dataclass(frozen=True)
class Clusters:
    """What a head decides by where it decides by centroids: the nearest one is of its class, or weighs the most.

    Attributes:
        centroids: (M, d).
        classes: (M,) the class of each centroid.
        index: (C, K_max) the centroids of each class; see `corral.geometry.class_index`.
        variance: sigma^2 of the scores -||f - mu||^2 / 2 sigma^2, a scalar tensor.
        effective_variance: the variance times the head's temperature.
        rule: how a class's centroids count; see the head.
        by_distance: whether the logits are those scores' (Eq. 4 of ClusTR). The published protocols, and the losses
            that are made of them, are of such heads alone.
    """

    centroids: Tensor
    classes: Tensor
    index: Tensor
    variance: Tensor
    effective_variance: Tensor
    rule: str | int
    by_distance: bool = True

    @property
    def num_classes(self) -> int:
        """C."""
        return self.index.shape[0]


class Head(Shown, nn.Module):
    """Features (N, features_dim) to logits (N, num_classes).

    A head of your own is a subclass with a `name`, an `__init__(features, classes, ...)`, whose other
    parameters are its options and are kept as attributes of the same names, and a `forward`. That is enough to be
    trained, saved, loaded, attacked and exported. Tensors go to parameters and buffers. Float32 arithmetic under
    autocast is the head's own affair (`corral.precision.full_precision`).

    A certificate is never inherited: `certified_radius` counts for the very class that defines it, and only while
    nothing but that class's methods runs (`models.plain`).

    Attributes:
        name: in the registry.
        rule: how the centroids of a class count; None of a head without centroids.
        decides: whether the outputs are logits; not those of an encoder.
        fitted: whether training needs a method that fits the head to features; a recipe cannot choose it by name.
    """

    name: ClassVar[str] = ""
    decides: ClassVar[bool] = True
    fitted: ClassVar[bool] = False
    registry: ClassVar["Registry[type[Head]]"]
    rule: Any = None
    features_dim: int
    num_classes: int

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if "certified_radius" in vars(cls):
            cls.certified_radius = _own(cls.certified_radius)  # type: ignore[method-assign]

    def _shown(self) -> tuple[str, dict[str, object]]:
        # A head of a user's may have set neither yet.
        features, classes = (getattr(self, name, "?") for name in ("features_dim", "num_classes"))
        return f"{features} features", {"classes": f"{classes} classes"}

    @property
    def clusters(self) -> Clusters | None:
        """The centroids that it decides by, as they are now; None where it has none."""
        return None

    def spec(self) -> Spec:
        """Its name and options, enough for `from_spec` to build a head that takes its state.

        Raises:
            UsageError: an option is not kept as an attribute.
        """
        options = {}
        for option in self.option_names():
            if not hasattr(self, option):
                raise UsageError(
                    f"head {type(self).__name__} cannot be saved: it keeps no attribute {option!r}, which is an "
                    "option of its __init__; keep it, or define spec()"
                )
            options[option] = getattr(self, option)
        return {"name": self.name, **options}

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """The names of its options."""
        return option_names(cls, given=GIVEN)

    @classmethod
    def resolved(cls, options: Mapping[str, Any], classes: int) -> dict[str, Any]:
        """Its options with their defaults, of those given without the name.

        Args:
            options: as a recipe states them.
            classes: C.

        Raises:
            ValueError: an unknown or an impossible one.
        """
        return read_options(cls, values=options, what=f"head {cls.name or cls.__name__!r}", given=GIVEN)

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], features: int, classes: int) -> "Head":
        """A head of a `spec()` for d features and C classes, with first weights from torch's global generator.

        Raises:
            ValueError: impossible options.
        """
        return cls(features, classes, **cls.resolved(options_of(spec), classes))

    @classmethod
    def shapes(cls, spec: Mapping[str, Any], features: int, classes: int) -> dict[str, tuple[int, ...]]:
        """The shapes of its state by name, without allocating any: what a file must hold.

        Args:
            spec: what `spec()` gave.
            features: d, the number of features.
            classes: C.
        """
        with torch.device("meta"):
            state = cls.from_spec(spec, features, classes).state_dict()
        return {name: tuple(tensor.shape) for name, tensor in state.items()}

    def certified_radius(self, features: Tensor, *, lipschitz: float = 1.0) -> Tensor:
        """(N,) float64 l2 radii within which its decision on each feature cannot change, in eval mode.

        Args:
            features: (N, d) finite.
            lipschitz: an upper bound on the backbone's l2 Lipschitz constant, > 0: radii are divided by it.

        Raises:
            UsageError: its class defines no radius of its own, or something else than the class's methods may run.
            ValueError: what the radius itself refuses.
        """
        raise _no_radius(type(self))


HEADS: Registry[type[Head]] = Registry(
    "head", group="corral.heads", package="corral.models.heads", check=lambda thing: _checked(thing)
)
"""Every head by its name."""
Head.registry = HEADS


def require_own_radius(head: nn.Module) -> None:
    """Refuse a head whose radius is not the one of what it runs.

    Raises:
        UsageError: its very class defines no `certified_radius`; or hooks, replaced methods, parametrizations.
    """
    kind = type(head)
    # A subclass may decide by something else: what its parent says counts no more.
    if kind is Head or "certified_radius" not in vars(kind):
        raise _no_radius(kind)
    require_plain_inside(head, "head")


def _no_radius(kind: type[nn.Module]) -> UsageError:
    having = ", ".join(sorted(name for name, one in HEADS.items() if "certified_radius" in vars(one)))
    return UsageError(
        f"a {kind.__name__} has no radius: only heads of exactly the types that define certified_radius have one "
        f"({having}), a subclass may decide otherwise; define it on {kind.__name__}, or certify one of those"
    )


def _own(radius: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A class's `certified_radius` that refuses all but this class's unchanged heads."""

    @functools.wraps(radius)
    def guarded(self: Head, features: Tensor, *, lipschitz: float = 1.0) -> Tensor:
        require_own_radius(self)
        return radius(self, features, lipschitz=lipschitz)

    return guarded


def options_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A description without the head's name."""
    return {option: value for option, value in spec.items() if option != "name"}


def _checked(thing: object) -> type[Head]:
    if not (isinstance(thing, type) and issubclass(thing, Head)):
        raise TypeError("it must be a class that derives from corral.models.Head")
    return thing
