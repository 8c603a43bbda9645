"""Attacks by name: registering one, its settings, and binding it to a threat and a model."""

import inspect
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from corral.attacks.attack import Attack, Setting
from corral.attacks.attacked_model import AttackedModel
from corral.attacks.balls import Norm, per_example
from corral.attacks.checks import check_settings
from corral.attacks.function import AttackFunction, attack_function, norms_of
from corral.attacks.minimal import MinimalOutcome
from corral.attacks.outcome import Outcome
from corral.attacks.threat import Threat
from corral.errors import UsageError, closest
from corral.registry import Registry
from corral.strict import check_bounded

# What the threat and the engine give to an attack, and what only a call from Python can.
GIVEN = ("eps", "norm", "seed", "generator", "targeted", "mode")

Binder = Callable[..., Attack]


class NamedAttack:
    """An attack with its settings open, not bound yet.

    Args:
        name: for `--attack` and the record.
        summary: one line for a list of attacks.
        binder: of a model and a threat, and the settings as keywords, to the bound attack.
        options: the settings by name.
        source: the function that it is made of, for messages.
    """

    def __init__(
        self, name: str, summary: str, binder: Binder, options: Mapping[str, "Option"], source: Callable[..., Any]
    ) -> None:
        self.name, self.summary, self.options, self._binder = name, summary, options, binder
        self.__module__, self.__qualname__ = source.__module__, source.__qualname__

    def bind(self, threat: Threat, target: AttackedModel, **settings: Setting) -> Attack:
        """The attack on a model at a threat, with these settings instead of its own.

        Args:
            threat: norm and eps.
            target: the model behind its contract.
            **settings: by name, in the place of the attack's own.

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
            return self._binder(target, threat, **check_settings(given, threat.eps, threat.norm))
        except ValueError as error:
            raise UsageError(f"attack {self.name}: {error}") from error


@dataclass(frozen=True)
class Option:
    """A setting of an attack.

    Attributes:
        kinds: keys of `READERS`, or tuples of allowed words.
        default: its value unless it is set.
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
            else:
                with suppress(KeyError, ValueError, ZeroDivisionError):
                    return _bounded(key, READERS[kind][1](value))
        wanted = " or ".join("|".join(kind) if isinstance(kind, tuple) else READERS[kind][0] for kind in self.kinds)
        raise UsageError(f"setting {key} takes {wanted}, found {value!r}")


def _bounded(key: str, value: Any) -> Any:
    try:
        check_bounded(value)
    except ValueError as error:
        raise UsageError(f"setting {key} {error}, found {value}") from None
    return value


def _number(value: Any) -> float:
    """A number, or text such as "0.1" or "2/255"."""
    top, slash, bottom = str(value).partition("/")
    return float(top) / float(bottom) if slash else float(top)


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


# Of each kind of setting its name in messages and a reader of values and text, in the order in which they are tried:
# "5" is a whole number, "true" no word.
READERS: dict[type, tuple[str, Callable[[Any], Any]]] = {
    bool: ("true or false", lambda value: {"true": True, "false": False}[str(value).lower()]),
    int: ("a whole number", lambda value: int(str(value))),
    float: ("a number", _number),
    type(None): ("none", lambda value: {"": None, "none": None}[str(value).lower()]),
    str: ("a word", _word),
}


def _options(function: Callable[..., Any]) -> dict[str, Option]:
    """The settings of a function: its keywords but for those of `GIVEN`, with the kinds that their annotations name."""
    hints, found = get_type_hints(function), {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not parameter.KEYWORD_ONLY or name in GIVEN:
            continue
        default = None if parameter.default is parameter.empty else parameter.default
        annotation = hints.get(name, type(default) if default is not None else Any)
        kinds = [kind for kind in _kinds(annotation) if isinstance(kind, tuple) or kind in READERS]
        order = [*READERS]
        order.insert(-1, tuple)  # allowed words just before any word
        kinds.sort(key=lambda kind: order.index(tuple if isinstance(kind, tuple) else kind))
        if kinds:
            found[name] = Option(tuple(kinds), default)
    return found


def _kinds(annotation: Any) -> list[Any]:
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return [kind for part in get_args(annotation) for kind in _kinds(part)]
    return [get_args(annotation)] if origin is Literal else [annotation]


def named_attack(thing: object) -> NamedAttack:
    """A named attack, from itself, a registered function, or a function of the attacks' form.

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
        found = found.outcome()
    inside = (found.step >= 0) & (norms_of(found.x_adv - x, threat.norm) <= threat.eps)
    x_adv = torch.where(per_example(inside, x), found.x_adv, x)
    return Outcome(x_adv, inside, torch.where(inside, found.step, -1), found.forwards, found.backwards)


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
        UsageError: no such attack, or settings that are not key=value; unknown ones are refused when it is bound.
    """
    head, colon, tail = text.rpartition(":")
    if not colon or ("=" not in tail and head not in ATTACKS):
        return ATTACKS.find(text).bind
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
