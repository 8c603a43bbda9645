"""Protocols by name: the attacks that an evaluation is made of, and registering another list of them."""

from collections.abc import Callable
from dataclasses import dataclass

from corral.attacks import presets
from corral.attacks.adaptive import adaptive_attacks
from corral.attacks.attack import Attack
from corral.attacks.attacked_model import AttackedModel
from corral.attacks.autoattack import standard_attacks
from corral.attacks.centred import centred_attacks, encoder_attacks
from corral.attacks.objectives import distance_clusters
from corral.attacks.screening import screening
from corral.attacks.threat import Threat
from corral.registry import Registry

Maker = Callable[[AttackedModel, Threat], tuple[Attack, ...]]
Presets = tuple[presets.PgdPreset, ...]


@dataclass(frozen=True)
class AttackProtocol:
    """A list of attacks.

    Attributes:
        name, summary, ensemble: as `register_protocol`.
        attacks: of a model and a threat, the attacks bound to them.
    """

    name: str
    summary: str
    attacks: Maker
    ensemble: str = ""


def as_protocol(thing: object) -> AttackProtocol:
    """What a target names, as a protocol.

    Raises:
        TypeError: it is no registered protocol.
    """
    found = getattr(thing, "protocol", thing)
    if not isinstance(found, AttackProtocol):
        raise TypeError('decorate it with @corral.register.protocol("name", "what it runs")')
    return found


PROTOCOLS: Registry[AttackProtocol] = Registry("protocol", group="corral.protocols", check=as_protocol)


def register_protocol(name: str, summary: str, *, ensemble: str = "") -> Callable[[Maker], Maker]:
    """Register a function of (AttackedModel, Threat) to a tuple of bound attacks as a protocol; a decorator.

        @corral.register.protocol("quick-momentum", "PGD and MI-FGSM, 10 steps each")
        def quick_momentum(target, threat):
            return tuple(ATTACKS[name].bind(threat, target, steps=10) for name in ("pgd", "mi-fgsm"))

    Args:
        name: for `--protocol` and the record.
        summary: one line for a list of protocols.
        ensemble: name of a row of the record for all of its attacks as one, beside their own; none where empty.
    """

    def decorate(maker: Maker) -> Maker:
        protocol = PROTOCOLS.add(name, AttackProtocol(name, summary, maker, ensemble))
        maker.protocol = protocol  # type: ignore[attr-defined]
        return maker

    return decorate


@register_protocol(
    "quick", "PGD-20 as published, and on the log-space logits with cross-entropy and margin, 5 restarts"
)
def quick(target: AttackedModel, threat: Threat) -> tuple[Attack, ...]:
    """Cluster heads also get the published PGD-20 on log-space logits."""
    return _bound(
        target, threat, (presets.PUBLISHED_20,), (presets.PUBLISHED_20_LOG,), (presets.LOG_20, presets.MARGIN_20)
    )


@register_protocol(
    "paper", "PGD-20 and PGD-100, 10 restarts, as published; on clusters the adaptive attack and log-space controls"
)
def paper(target: AttackedModel, threat: Threat) -> tuple[Attack, ...]:
    """What ClusTR reports."""
    on_clusters = (presets.PUBLISHED_100_MAGNET, presets.PUBLISHED_20_LOG, presets.PUBLISHED_100_LOG)
    return _bound(target, threat, (presets.PUBLISHED_20, presets.PUBLISHED_100), on_clusters)


def _bound(
    target: AttackedModel, threat: Threat, first: Presets, on_clusters: Presets, last: Presets = ()
) -> tuple[Attack, ...]:
    chosen = first + (() if distance_clusters(target.model) is None else on_clusters) + last
    return tuple(preset.bind(target, threat) for preset in chosen)


@register_protocol(
    "centred", "PGD-10 and PGD-50, plain and toward a random class, as MMC and MAT have them; their losses and logits"
)
def centred(target: AttackedModel, threat: Threat) -> tuple[Attack, ...]:
    """What max-Mahalanobis centre training and MAT report."""
    return centred_attacks(target.model, threat=threat, training=target.training_loss())


@register_protocol(
    "encoder", "PGD-20, steps of eps/4, one start, the last image: as papers on robust encoders report it"
)
def encoder(target: AttackedModel, threat: Threat) -> tuple[Attack, ...]:
    """What papers on robust encoders report."""
    return encoder_attacks(threat=threat)


@register_protocol(
    "standard",
    "AutoAttack (autoattack stands for it too): APGD-CE, APGD-T, FAB-T, Square, each on every image",
    ensemble="autoattack",
)
def standard(target: AttackedModel, threat: Threat) -> tuple[Attack, ...]:
    """AutoAttack's members."""
    return standard_attacks(threat, target.classes)


PROTOCOLS.alias("autoattack", of="standard")  # by its ensemble's name


@register_protocol(
    "screening", "a fast estimate of AutoAttack for sweeps, at a tenth of its backward passes; no measurement of it"
)
def screened(target: AttackedModel, threat: Threat) -> tuple[Attack, ...]:
    """A screening figure."""
    return (screening(target, threat),)


@register_protocol(
    "adaptive",
    "Auto-PGD on every objective that knows the head and on the loss of training, the worst case over them",
    ensemble="adaptive",
)
def adaptive(target: AttackedModel, threat: Threat) -> tuple[Attack, ...]:
    """The adaptive ensemble's members."""
    return adaptive_attacks(target.model, threat=threat, training=target.training_loss())
