"""The named protocols of an evaluation: which attacks each of them is made of."""

from typing import Literal, get_args

from torch import nn

from corral.attacks import (
    LOG_20,
    MARGIN_20,
    PUBLISHED_20,
    PUBLISHED_20_LOG,
    PUBLISHED_100,
    PUBLISHED_100_LOG,
    PUBLISHED_100_MAGNET,
)
from corral.attacks.adaptive import adaptive_attacks
from corral.attacks.attack import Attack
from corral.attacks.autoattack import standard_attacks
from corral.attacks.centred import centred_attacks, encoder_attacks
from corral.attacks.presets import PgdProtocol
from corral.attacks.threat import Threat
from corral.errors import UsageError
from corral.models import Classifier, ClusterHead
from corral.training.methods import method_class
from corral.training.recipe import Recipe

ProtocolName = Literal["quick", "paper", "centred", "encoder", "standard", "adaptive"]
PROTOCOL_NAMES: tuple[ProtocolName, ...] = get_args(ProtocolName)
# One row for the whole ensemble, beside its members' own.
ENSEMBLES = {"standard": "autoattack", "adaptive": "adaptive"}
SUMMARIES: dict[ProtocolName, str] = {
    "quick": "PGD-20 as published, and on the log-space logits with cross-entropy and margin, 5 restarts",
    "paper": "PGD-20 and PGD-100, 10 restarts, as published; on clusters the adaptive attack and log-space controls",
    "centred": "PGD-10 and PGD-50, plain and toward a random class, as MMC and MAT have them; their losses and logits",
    "encoder": "PGD-20, steps of eps/4, one start, the last image: as papers on robust encoders report it",
    "standard": "AutoAttack standard: APGD-CE, APGD-T, FAB-T, Square, each on every image",
    "adaptive": "Auto-PGD on every objective that knows the head and on the loss of training, the worst case over them",
}


def protocol_attacks(
    name: str, model: nn.Module, *, threat: Threat, classes: int, recipe: Recipe
) -> tuple[Attack, ...]:
    """The attacks of a protocol for a model and a threat.

    Args:
        name: one of `PROTOCOL_NAMES`.
        model: the model to attack; a cluster head meets attacks that a linear one has not.
        threat: norm and radius that every attack is bound to.
        classes: number of classes.
        recipe: that the model was trained by; its method knows the loss of training and the released code's numbers.

    Raises:
        UsageError: another name, or a method without a loss of training where the protocol attacks that.
    """
    if name == "standard":
        return standard_attacks(threat, classes)
    method = method_class(recipe.method)
    if name == "adaptive":
        return adaptive_attacks(model, threat=threat, training=method.training_objective(recipe.method, recipe.threat))
    clusters = isinstance(model, Classifier) and isinstance(model.head, ClusterHead)
    if name == "centred":
        return centred_attacks(model, threat=threat, training=method.training_objective(recipe.method, recipe.threat))
    if name == "encoder":
        return encoder_attacks(threat=threat)
    presets: dict[str, tuple[PgdProtocol, ...]] = {
        "quick": (PUBLISHED_20, *((PUBLISHED_20_LOG,) if clusters else ()), LOG_20, MARGIN_20),
        "paper": (
            PUBLISHED_20,
            PUBLISHED_100,
            *((PUBLISHED_100_MAGNET, PUBLISHED_20_LOG, PUBLISHED_100_LOG) if clusters else ()),
        ),
    }
    if name not in presets:
        raise UsageError(f"unknown protocol {name!r}; known: {', '.join(PROTOCOL_NAMES)}")
    released = method.released(recipe.method)
    return tuple(preset.bound(model, threat, released) for preset in presets[name])
