"""Attacks by name: registering one, its settings, and binding it to a threat and a model."""

import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from corral.attacks.attack import Attack, Setting
from corral.attacks.attacked_model import AttackedModel
from corral.attacks.balls import Norm
from corral.attacks.function import AttackFunction, attack_function, norms_of
from corral.attacks.minimal import MinimalOutcome
from corral.attacks.outcome import Outcome
from corral.attacks.threat import Threat
from corral.errors import UsageError, closest
from corral.registry import Registry

# What the threat and the engine give to an attack, and what only a call from Python can.
GIVEN = ("eps", "norm", "seed", "generator", "targeted", "mode")

Binder = Callable[..., Attack]


class NamedAttack:
    """An attack with its settings open, not bound yet.

    Args:
        name: that it is asked for by.
        summary: one line for a list of attacks.
        binder: of a model and a threat, and the settings as keywords, to the bound attack.
        options: the settings' parameters in the binder's or the attack's own signature, by name.
        place: the function that it is made of, for messages.
    """

    def __init__(
        self, name: str, summary: str, binder: Binder, options: Mapping[str, "Option"], place: Callable[..., Any]
    ) -> None:
        self.name, self.summary, self.options, self._binder = name, summary, options, binder
        self.__module__, self.__qualname__ = place.__module__, place.__qualname__

    def bind(self, threat: Threat, target: AttackedModel, **settings: Setting) -> Attack:
        """The attack on a model at a threat, every parameter decided.

        Args:
            threat: norm and radius.
            target: the model.
            settings: other values than the attack's own.

        Raises:
            UsageError: an unknown setting, a wrong value, or a threat or model that the attack is not for.
        """
        for key in settings:
            if key not in self.options:
                hint = closest(key, tuple(self.options))
                known = ", ".join(f"{name}={option.default}" for name, option in self.options.items()) or "none"
                raise UsageError(f"attack {self.name} has no setting {key!r}{hint}; it has {known}")
        try:
            given = {key: self.options[key].checked(key, value) for key, value in settings.items()}
            return self._binder(target, threat, **given)
        except ValueError as error:
            raise UsageError(f"attack {self.name}: {error}") from error


@dataclass(frozen=True)
class Option:
    """A setting of an attack.

    Attributes:
        kinds: what it may be: int, float, str, bool, type(None), or a tuple of allowed words.
        default: its value where nothing is said.
    """

    kinds: tuple[Any, ...]
    default: Any

    def checked(self, key: str, value: Any) -> Any:
        """A value of one of the kinds, read from text if need be.

        Raises:
            UsageError: it is none of them.
        """
        for kind in self.kinds:
            if isinstance(kind, tuple):
                if value in kind:
                    return value
            elif kind is bool and str(value).lower() in ("true", "false"):
                return str(value).lower() == "true"
            elif kind is type(None) and str(value).lower() in ("", "none"):
                return None
            elif kind is float and (number := _number(value)) is not None:
                return number
            elif kind is int and _whole(value) is not None:
                return _whole(value)
            elif kind is str and isinstance(value, str):
                return value
        words = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", type(None): "none"}
        wanted = " or ".join("|".join(kind) if isinstance(kind, tuple) else words[kind] for kind in self.kinds)
        raise UsageError(f"setting {key} takes {wanted}, found {value!r}")


def _number(value: Any) -> float | None:
    """A number, or text such as "0.1" or "2/255"; None for anything else."""
    top, slash, bottom = str(value).partition("/")
    try:
        return float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        return None


def _whole(value: Any) -> int | None:
    try:
        return int(str(value))
    except ValueError:
        return None


def _options(function: Callable[..., Any]) -> dict[str, Option]:
    """The settings of a function: its keywords but for those of `GIVEN`, with the kinds that their annotations name."""
    hints, found = get_type_hints(function), {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not parameter.KEYWORD_ONLY or name in GIVEN:
            continue
        default = None if parameter.default is parameter.empty else parameter.default
        annotation = hints.get(name, type(default) if default is not None else Any)
        # Whole numbers before numbers, words last: "5" is a whole number, "true" no word.
        order = [bool, int, float, type(None)]
        kinds = [kind for kind in _kinds(annotation) if isinstance(kind, tuple) or kind in (*order, str)]
        kinds.sort(key=lambda kind: order.index(kind) if kind in order else len(order) + (kind is str))
        if kinds:
            found[name] = Option(tuple(kinds), default)
    return found


def _kinds(annotation: Any) -> list[Any]:
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return [kind for part in get_args(annotation) for kind in _kinds(part)]
    return [get_args(annotation)] if origin is Literal else [annotation]


def named_attack(thing: object) -> NamedAttack:
    """What can stand for an attack as one: a named attack, a registered function, or a function of the attacks' form.

    Raises:
        TypeError: anything else.
    """
    found = getattr(thing, "named", thing)
    if isinstance(found, NamedAttack):
        return found
    if not inspect.isfunction(found):
        raise TypeError("it should be a function attack(model, x, y, *, eps, ...) that returns adversarial images")
    parameters = list(inspect.signature(found).parameters.values())
    if len(parameters) < 3 or any(p.default is p.empty and p.name not in GIVEN for p in parameters[3:]):
        raise TypeError("it should take (model, x, y, *, eps, ...) and have a default for every setting")
    return _of_function(found.__name__, found, None)


def _of_function(name: str, function: Callable[..., Any], norms: tuple[Norm, ...] | None) -> NamedAttack:
    """An attack of a function of tensors; one that is no `AttackFunction` yet becomes one."""
    attack: AttackFunction[..., Any] = function if hasattr(function, "outcome") else attack_function(norms)(function)
    known: tuple[Norm, ...] = attack.norms  # type: ignore[attr-defined]
    signature, options = inspect.signature(function), _options(function)
    parameters = signature.parameters
    summary = (inspect.getdoc(function) or name).splitlines()[0].rstrip(".")

    def bind(target: AttackedModel, threat: Threat, **settings: Setting) -> Attack:
        if threat.norm not in known:
            raise UsageError(f"attack {name} knows the norm {' and '.join(known)}, the threat is {threat}")
        values = {key: option.default for key, option in options.items()} | settings
        fixed = {key: getattr(threat, key) for key in ("eps", "norm") if key in parameters}

        def run(model: nn.Module, x: Tensor, y: Tensor, *, seed: int) -> Outcome:
            given = fixed | values | ({"seed": seed} if "seed" in parameters else {})
            if "generator" in parameters:
                given["generator"] = torch.Generator(x.device).manual_seed(seed)
            # What draws from the global stream is the same again, and leaves no trace in it.
            with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
                torch.manual_seed(seed)
                found = attack.outcome(model, x, y, **given)
            return found if "eps" in parameters else _within(found, x, threat)

        recorded = {key: value for key, value in values.items() if value is not None}
        return Attack(name, summary, tuple(recorded.items()), threat, run, success_rule=success_rule)

    # Images alone are a last point; of an outcome any point counts.
    counts_itself = signature.return_annotation in (Outcome, MinimalOutcome)
    success_rule: Literal["any_iterate", "max_loss_restart"] = "any_iterate" if counts_itself else "max_loss_restart"
    return NamedAttack(name, summary, bind, options, function)


def _within(found: Outcome | MinimalOutcome, x: Tensor, threat: Threat) -> Outcome:
    """What an attack that takes no eps found, as far as it lies within a threat; else the image as it is."""
    if isinstance(found, MinimalOutcome):
        step = torch.where(found.natural, 0, torch.where(found.broken, 1, -1))
    else:
        step = found.step
    inside = (step >= 0) & (norms_of(found.x_adv - x, threat.norm) <= threat.eps)
    x_adv = torch.where(inside.view(-1, *[1] * (x.dim() - 1)), found.x_adv, x)
    return Outcome(x_adv, inside, torch.where(inside, step, -1), found.forwards, found.backwards)


ATTACKS: Registry[NamedAttack] = Registry(
    "attack", group="corral.attacks", package="corral.attacks", check=named_attack
)


def register_attack(name: str, *, norms: tuple[Norm, ...] | None = None) -> Callable[[Callable[..., Any]], Any]:
    """Register a function as an attack by a name; a decorator.

        @corral.register.attack("mi-fgsm")
        def mi_fgsm(model, x, y, *, eps, norm="Linf", steps=10, momentum=1.0):
            ...
            return x_adv

    It is called as `corral.attacks.function.attack_function` says; its keywords but for the threat's and the seed's are
    the attack's settings, which `corral evaluate --attack NAME:steps=20` takes and the record states.

    Args:
        name: for `--attack` and the record.
        norms: that the function knows; default Linf and L2 where it takes `norm`, Linf where it takes `eps` alone, and
            L2 for one that looks for the closest point.

    Returns:
        The decorator; what it returns is called like the function and returns adversarial images.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        attack: Any = attack_function(norms)(function)
        attack.named = ATTACKS.add(name, _of_function(name, attack, norms))
        return attack

    return decorate


def register_binder(name: str, summary: str) -> Callable[[Binder], Binder]:
    """Register a function of (AttackedModel, Threat, *, settings) to a bound attack by a name; a decorator."""

    def decorate(binder: Binder) -> Binder:
        ATTACKS.add(name, NamedAttack(name, summary, binder, _options(binder), binder))
        return binder

    return decorate


def parse_attack(text: str) -> Callable[[Threat, AttackedModel], Attack]:
    """An attack as the command line names it: "pgd", "pgd:steps=50,restarts=3", "file.py:attack:steps=5".

    Returns:
        A function that binds it to a threat and a model.

    Raises:
        UsageError: no such attack, or settings that are not key=value; unknown ones are met when it is bound.
    """
    head, colon, tail = text.rpartition(":")
    if not colon or ("=" not in tail and head not in ATTACKS):
        named = ATTACKS.find(text)
        return named.bind
    named, settings = ATTACKS.find(head), {}
    for part in tail.split(","):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"settings of an attack are key=value,key=value, found {part!r} in {text}")
        settings[key.strip()] = value.strip()

    def bind(threat: Threat, target: AttackedModel) -> Attack:
        attack = named.bind(threat, target, **settings)
        return replace(attack, name=f"{attack.name}:{tail}")

    return bind
