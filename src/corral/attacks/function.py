"""What all attacks share: checked arguments, the model's state, the empty batch, measured success."""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec, Protocol, TypeVar, overload

import torch
from torch import Tensor, nn

from corral.attacks.balls import NORMS, Norm, l2_norms, per_example
from corral.attacks.checks import check_settings, take_batch
from corral.attacks.minimal import MinimalOutcome
from corral.attacks.outcome import Outcome
from corral.attacks.state import attacked
from corral.attacks.wrapped_model import WrappedModel
from corral.errors import CorralError
from corral.models.contract import contracted

P = ParamSpec("P")
R_co = TypeVar("R_co", bound=Outcome | MinimalOutcome, covariant=True)
R = TypeVar("R", bound=Outcome | MinimalOutcome)

# What a point may be farther than eps by, for rounding: relative, and in pixels.
RELATIVE, ABSOLUTE = 1e-5, 1e-6


class AttackFunction(Protocol[P, R_co]):
    """An attack: called, it returns adversarial images; `outcome` takes the same and returns what it found.

    Arguments are the model, (N, ...) images in [0, 1], (N,) labels, and keywords.
    """

    __name__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        """Adversarial images like the given ones."""

    def outcome(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """The same with what it found for each image."""


class Decorator(Protocol):
    """Turns a function into an attack."""

    @overload
    def __call__(self, function: Callable[P, R]) -> AttackFunction[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, Tensor]) -> AttackFunction[P, Outcome]: ...


def guarded(norms: tuple[Norm, ...] | None = None) -> Callable[[Callable[P, R | Tensor]], Callable[P, R]]:
    """A decorator that calls a function with checked arguments, on at least one image, and restores the model's state.

    The model is behind its contract (`corral.models.contract`), in eval mode, without weight gradients, TF32 or
    autocast; gradients are enabled. The function returns an outcome or adversarial images alone: of these the shape,
    the box and the ball are checked, success is measured on exactly these pixels, and passes are counted.

    Args:
        norms: that it knows; default Linf and L2 where it takes `norm`, Linf where it takes `eps` alone, else L2.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        signature = inspect.signature(function)
        alone: tuple[Norm, ...] = ("Linf",) if "eps" in signature.parameters else ("L2",)
        known = norms or (NORMS if "norm" in signature.parameters else alone)
        returned = signature.return_annotation

        @functools.wraps(function)
        def outcome(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            given = bound.arguments
            names = list(given)[:3]
            model, x, y = (given[name] for name in names)
            eps, norm = given.get("eps"), given.get("norm", known[0])
            x, y, radius = take_batch(x, y, 0.0 if eps is None else eps, norm, norms=known)
            if eps is not None:
                given["eps"] = eps = radius
            given.update(check_settings(given, radius, norm))
            given.update(zip(names, (contracted(model), x, y), strict=True))
            if not len(x):
                return (MinimalOutcome if returned is MinimalOutcome else Outcome).nothing(x)
            held = given[names[0]]
            with attacked(held, fold=True), torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
                if returned in (Outcome, MinimalOutcome):
                    return function(*bound.args, **bound.kwargs)
                with counted_passes(held) as passes:
                    found = function(*bound.args, **bound.kwargs)
                if not isinstance(found, Tensor):
                    return found
                return measured(model, x, y, found.detach(), passes, eps, norm)

        outcome.norms = known  # type: ignore[attr-defined]
        return outcome

    return decorate


def attack_function(norms: tuple[Norm, ...] | None = None) -> Decorator:
    """A decorator that turns a function's own steps into an attack, as `guarded` says."""

    def decorate(function: Callable[..., Any]) -> Any:
        outcome: Any = guarded(norms)(function)
        images: Any = images_of(outcome)
        images.outcome, images.norms = outcome, outcome.norms
        return images

    return decorate


def images_of(outcome: Callable[P, Any]) -> Callable[P, Tensor]:
    """The attack that returns `outcome(...).x_adv` alone."""

    @functools.wraps(outcome)
    def images(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        x_adv: Tensor = outcome(*args, **kwargs).x_adv
        return x_adv

    return images


@dataclass
class Passes:
    """How many passes a model made so far, and the images in them."""

    calls: int = 0
    forwards: int = 0
    backwards: int = 0


@contextmanager
def counted_passes(model: nn.Module) -> Iterator[Passes]:
    """Count a model's forward and backward passes; its hooks are gone afterwards."""
    passes = Passes()

    def forward(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        passes.calls += 1
        passes.forwards += len(output)
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(backward)  # type: ignore[no-untyped-call]

    def backward(gradient: Tensor) -> None:
        passes.backwards += len(gradient)

    hook = model.register_forward_hook(forward)
    try:
        yield passes
    finally:
        hook.remove()


def measured(
    model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, passes: Passes, eps: float | None, norm: Norm
) -> Outcome:
    """The outcome of an attack that returned images alone; which of them are misclassified is measured here.

    Raises:
        CorralError: images of another shape, not finite, outside [0, 1], or farther than eps.
    """
    if x_adv.shape != x.shape or x_adv.dtype != x.dtype:
        raise CorralError(
            f"the attack must return images {x.dtype} {tuple(x.shape)}, found {x_adv.dtype} {tuple(x_adv.shape)}"
        )
    if not bool(torch.isfinite(x_adv).all()) or float(x_adv.min()) < -ABSOLUTE or float(x_adv.max()) > 1 + ABSOLUTE:
        raise CorralError("the attack returned pixels that are not finite or not in [0, 1]: clip them")
    x_adv = x_adv.clamp(0, 1)
    farthest = float(norms_of(x_adv - x, norm).max())
    if eps is not None and farthest > eps * (1 + RELATIVE) + ABSOLUTE:
        raise CorralError(f"the attack returned an image {farthest:g} away in {norm}, eps is {eps:g}: project it")
    wrapped = WrappedModel(model)
    wrong = wrapped.clean_logits(x, y).argmax(1) != y
    succeeded = wrapped.logits(x_adv).argmax(1) != y
    step = torch.where(wrong, 0, torch.where(succeeded, max(passes.calls, 1), -1))
    x_adv = torch.where(per_example(wrong, x), x, x_adv)
    forwards, backwards = passes.forwards + wrapped.forwards, passes.backwards
    return Outcome(x_adv, wrong | succeeded, step, forwards, backwards)


def norms_of(deltas: Tensor, norm: Norm) -> Tensor:
    """(N,) float64 norms of (N, ...) perturbations."""
    flat = deltas.flatten(1).double()
    if norm == "L2":
        return l2_norms(flat)
    return flat.abs().amax(1) if norm == "Linf" else flat.abs().sum(1)
