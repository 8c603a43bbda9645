"""What an evaluation attacks a run with: a protocol's attacks, or attacks by name, bound to its model and threat."""

from collections.abc import Callable, Sequence

from torch import nn

from corral.attacks.attack import Attack
from corral.attacks.attacked_model import AttackedModel
from corral.attacks.balls import ALL_NORMS, Norm
from corral.attacks.checks import check_inside
from corral.attacks.presets import PgdPreset
from corral.attacks.protocols import PROTOCOLS
from corral.attacks.registry import NamedAttack, named_attack, parse_attack
from corral.attacks.threat import Threat
from corral.errors import UsageError
from corral.training import parse_eps
from corral.training.methods import method_class
from corral.training.recipes.recipe import Recipe

# What stands for an attack: its name with settings ("pgd:steps=50"), a preset, or a function of the attacks' form.
AttackLike = str | PgdPreset | NamedAttack | Callable[..., object]
# A norm and a radius in pixel units, or both bound already.
ThreatLike = Threat | tuple[str, float | str]


def as_threat(threat: ThreatLike, shape: Sequence[int] | None = None) -> Threat:
    """The threat that a user gives, checked as `parsed_threat` does.

    Raises:
        UsageError: neither a `Threat` nor (norm, eps), an unknown norm, or an impossible radius.
    """
    if isinstance(threat, Threat):
        return parsed_threat(threat.norm, threat.eps, shape)
    if not isinstance(threat, tuple | list) or len(threat) != 2:
        raise UsageError(f"a threat is (norm, eps), such as ('Linf', 8/255), found a {type(threat).__name__}")
    return parsed_threat(known_norm(threat[0]), threat[1], shape)


def known_norm(name: object) -> Norm:
    """A norm by its name, in whatever case; UsageError for another."""
    found = {norm.lower(): norm for norm in ALL_NORMS}.get(str(name).lower())
    if found is None:
        raise UsageError(f"norm {str(name)[:40]!r} is not one of {', '.join(ALL_NORMS)}")
    return found


def parsed_threat(norm: Norm, eps: float | str, shape: Sequence[int] | None = None) -> Threat:
    """The threat of a norm and a radius in pixel units, 0.1 or "8/255", to images of a shape where that is known.

    Raises:
        UsageError: an impossible radius, 0 among them, or one past the box of such images.
    """
    try:
        radius = parse_eps(eps, norm)
        if shape is not None:
            check_inside(radius, norm, shape)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if radius == 0:
        raise UsageError("eps must be above 0 for an attack, found 0; give --eps, such as 0.1 or 8/255")
    return Threat(norm, radius)


def protocol_attacks(
    name: str, model: nn.Module, *, threat: Threat, classes: int, recipe: Recipe | None
) -> tuple[Attack, ...]:
    """The attacks of a protocol for a model and a threat.

    Args:
        name: of a registered protocol.
        model: to attack.
        threat: that every attack is bound to.
        classes: number of classes.
        recipe: that the model was trained by, where it is a run; its method knows the loss of training and the released
            code's numbers.

    Raises:
        UsageError: another name, or a method without a loss of training where the protocol attacks that.
        CorralError: no method is known by the recipe's options.
    """
    return PROTOCOLS.find(name).attacks(_attacked_model(model, classes, recipe), threat)


def chosen_attacks(
    attacks: Sequence[AttackLike], model: nn.Module, *, threat: Threat, classes: int, recipe: Recipe | None
) -> tuple[Attack, ...]:
    """Attacks that the user chose, for a model and a threat; arguments as `protocol_attacks`.

    Raises:
        UsageError: something that is no attack, an unknown name or setting, or an attack not for this model or threat.
    """
    target = _attacked_model(model, classes, recipe)
    found = []
    for attack in attacks:
        if isinstance(attack, str):
            found.append(parse_attack(attack)(threat, target))
        elif isinstance(attack, PgdPreset):
            found.append(attack.bound(model, threat, target.released))
        else:
            try:
                found.append(named_attack(attack).bind(threat, target))
            except TypeError as error:
                raise UsageError(f"{attack!r} is no attack: {error}") from error
    return tuple(found)


def _attacked_model(model: nn.Module, classes: int, recipe: Recipe | None) -> AttackedModel:
    """A model as attacks are bound to it."""
    if recipe is None:
        return AttackedModel(model, classes)
    method = method_class(recipe.method)
    return AttackedModel(
        model,
        classes,
        training_loss=lambda: method.training_objective(recipe.method, recipe.threat),
        released=method.released(recipe.method),
    )
