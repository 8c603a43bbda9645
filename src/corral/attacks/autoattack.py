"""AutoAttack (Croce & Hein 2020; L1: Croce & Hein 2021): the published ensembles, with their published parameters."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Literal, ParamSpec, get_args

import torch
from torch import Tensor, nn

from corral.attacks.apgd.attack import apgd
from corral.attacks.attack import Attack, Setting, bound
from corral.attacks.attacked_model import AttackedModel
from corral.attacks.balls import ALL_NORMS, Norm
from corral.attacks.checks import check_counts, take_batch
from corral.attacks.engine import Attacked, cpu_batch, run_attacks
from corral.attacks.fab.attack import fab
from corral.attacks.outcome import Outcome
from corral.attacks.registry import register_binder
from corral.attacks.square.attack import square
from corral.attacks.state import attacked
from corral.attacks.threat import Threat
from corral.models.contract import contracted

P = ParamSpec("P")
Version = Literal["standard", "plus", "rand"]
STEPS, QUERIES, TARGETS, EOT = 100, 5000, 9, 20
DEVICE_BATCH = 256


def autoattack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: Norm = "Linf",
    version: Version = "standard",
    batch_size: int | None = None,
    seed: int = 0,
) -> Tensor:
    """AutoAttack: each attack of the ensemble in turn on the images still classified right after those before.

    Args:
        model: any module from float [0, 1] images to (N, C) logits; attacked in eval mode, its state is restored.
        x: (N, ...) clean images in [0, 1].
        y: (N,) int64 labels.
        eps: radius in pixel units and `norm`.
        norm: "Linf", "L2" or "L1".
        version: "standard" (APGD-CE, APGD-T, FAB-T, Square), "plus" (more restarts and the untargeted attacks too) or
            "rand" (APGD-CE and APGD-DLR with 20 passes a gradient, for models that answer at random).
        batch_size: images attacked at a time; the result does not depend on it beyond the model's own rounding.
            Default 125 to 500 on a CPU, by the images' size, else 256.
        seed: of all random numbers.

    Returns:
        Adversarial images like x, within eps and [0, 1]: misclassified ones where found.

    Raises:
        ValueError: impossible arguments or labels, images that are not finite or not in [0, 1].
        CorralError: the model's logits or gradients are not finite.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, found {batch_size}")
    x, y, eps = take_batch(x, y, eps, norm, norms=ALL_NORMS)
    if not len(x):
        return x.clone()
    if batch_size is None:
        batch_size = cpu_batch(x[0].numel()) if x.device.type == "cpu" else DEVICE_BATCH
    attacks = ensemble(version, Threat(norm, eps), count_classes(model, x))
    return run_attacks(model, x, y, attacks, seed=seed, batch_size=batch_size).x_adv


def autoattack_outcome(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: Norm = "Linf", seed: int = 0
) -> Attacked:
    """The standard ensemble on one batch, with each image's first successful attack and its step."""
    x, y, eps = take_batch(x, y, eps, norm, norms=ALL_NORMS)
    return run_attacks(model, x, y, standard_attacks(Threat(norm, eps), count_classes(model, x)), seed=seed)


def count_classes(model: nn.Module, x: Tensor) -> int:
    """The number of logits that a model gives for the first image; ValueError if it is not one row of at least 2."""
    if not len(x):
        raise ValueError("counting the classes needs an image, found none")
    with attacked(model), torch.no_grad():
        logits = contracted(model)(x[:1])
    if logits.shape[1] < 2:
        raise ValueError(f"the model must give logits (1, classes) with 2 classes or more, found {tuple(logits.shape)}")
    return int(logits.shape[1])


def ensemble(version: Version, threat: Threat, classes: int) -> tuple[Attack, ...]:
    """The attacks of a published version of AutoAttack; ValueError for another version."""
    versions = {"standard": standard_attacks, "plus": plus_attacks, "rand": rand_attacks}
    if version not in versions:
        raise ValueError(f"version {version!r} is not one of {', '.join(get_args(Version))}")
    return versions[version](threat, classes)


def standard_attacks(threat: Threat, classes: int) -> tuple[Attack, ...]:
    """APGD-CE, APGD-T, FAB-T and Square; for L1 with 5 restarts of APGD-CE and 5 targets of APGD-T, as published."""
    restarts, targets = (5, 5) if threat.norm == "L1" else (1, TARGETS)
    return (
        _apgd_ce(classes, threat, restarts=restarts),
        _apgd_t(classes, threat, targets=targets),
        _fab_t(classes, threat),
        _square(classes, threat),
    )


def plus_attacks(threat: Threat, classes: int) -> tuple[Attack, ...]:
    """The standard attacks with 5 restarts, and the untargeted APGD-DLR and FAB besides."""
    return (
        _apgd_ce(classes, threat, restarts=5),
        _apgd_dlr(classes, threat, restarts=5),
        _fab(classes, threat, restarts=5),
        _square(classes, threat),
        _apgd_t(classes, threat),
        _fab_t(classes, threat, restarts=5),
    )


def rand_attacks(threat: Threat, classes: int) -> tuple[Attack, ...]:
    """APGD-CE and APGD-DLR with gradients averaged over 20 passes."""
    return (_apgd_ce(classes, threat, eot=EOT), _apgd_dlr(classes, threat, eot=EOT))


def _named(name: str, summary: str) -> Callable[[Callable[P, Attack]], Callable[P, Attack]]:
    """Register a function of (classes, threat, *, settings) to an attack, whose settings are counts, by its name."""

    def decorate(made: Callable[P, Attack]) -> Callable[P, Attack]:
        @wraps(made)
        def bind(target: AttackedModel, threat: Threat, **settings: int) -> Attack:
            check_counts(**settings)
            attack: Attack = made(target.classes, threat, **settings)  # type: ignore[arg-type]
            return attack

        register_binder(name, summary)(bind)
        return made

    return decorate


@_named("apgd-ce", "Auto-PGD on the cross-entropy (Croce & Hein 2020)")
def _apgd_ce(classes: int, threat: Threat, *, steps: int = STEPS, restarts: int = 1, eot: int = 1) -> Attack:
    return _apgd("apgd-ce", "cross-entropy", "cross_entropy", threat, steps, restarts, eot)


@_named("apgd-dlr", "Auto-PGD on the difference of logits ratio")
def _apgd_dlr(classes: int, threat: Threat, *, steps: int = STEPS, restarts: int = 1, eot: int = 1) -> Attack:
    if classes < 3:
        words = "the margin (2 classes have no DLR)"
        return _apgd("apgd-dlr", words, "margin", threat, steps, restarts, eot)
    return _apgd("apgd-dlr", "the difference of logits ratio", "dlr", threat, steps, restarts, eot)


def _apgd(name: str, words: str, objective: str, threat: Threat, steps: int, restarts: int, eot: int) -> Attack:
    averaged = f", gradients averaged over {eot} passes" if eot > 1 else ""
    words = f"Auto-PGD on {words}, {steps} steps, {_counted(restarts, 'restart')}{averaged}"
    settings: dict[str, Setting] = {"steps": steps, "restarts": restarts, "objective": objective, "eot": eot}
    return _attack(name, words, threat, apgd.outcome, settings)


@_named("apgd-t", "Auto-PGD on the targeted difference of logits ratio, toward the likeliest rivals")
def _apgd_t(classes: int, threat: Threat, *, steps: int = STEPS, restarts: int = 1, targets: int = TARGETS) -> Attack:
    targets = min(targets, classes - 1)
    margin = "the targeted margin (below 4 classes: no DLR)"
    loss = "the targeted difference of logits ratio" if classes >= 4 else margin
    words = f"Auto-PGD on {loss}, {_counted(targets, 'target')}, {steps} steps, {_counted(restarts, 'restart')} of each"
    settings = {"steps": steps, "restarts": restarts, "targets": targets}
    objective = "targeted_dlr" if classes >= 4 else "targeted_margin"
    return _attack("apgd-t", words, threat, apgd.outcome, settings, objective=objective)


@_named("fab", "the fast adaptive boundary attack (Croce & Hein 2020), untargeted")
def _fab(classes: int, threat: Threat, *, steps: int = STEPS, restarts: int = 1) -> Attack:
    words = f"FAB, {steps} steps, {_counted(restarts, 'restart')}"
    return _attack("fab", words, threat, fab.outcome, {"steps": steps, "restarts": restarts, "targets": 0})


@_named("fab-t", "the fast adaptive boundary attack, toward the likeliest rivals")
def _fab_t(classes: int, threat: Threat, *, steps: int = STEPS, restarts: int = 1, targets: int = TARGETS) -> Attack:
    targets = min(targets, classes - 1)
    words = f"targeted FAB, {_counted(targets, 'target')}, {steps} steps, {_counted(restarts, 'restart')} of each"
    return _attack("fab-t", words, threat, fab.outcome, {"steps": steps, "restarts": restarts, "targets": targets})


@_named("square", "Square Attack (Andriushchenko et al. 2020): random search, no gradients")
def _square(classes: int, threat: Threat, *, queries: int = QUERIES, restarts: int = 1) -> Attack:
    words = f"Square attack on the margin, {queries:,} queries, no gradients, {_counted(restarts, 'restart')}"
    settings: dict[str, Setting] = {"queries": queries, "restarts": restarts}
    return _attack("square", words, threat, square.outcome, settings, objective="margin")


def _attack(
    name: str,
    words: str,
    threat: Threat,
    function: Callable[..., Outcome],
    settings: Mapping[str, Setting],
    **more: Setting,
) -> Attack:
    """The attack that runs `function` with `settings` at a threat; `more` goes into the record beside them."""
    run = bound(function, threat, **settings)
    return Attack(name, words, tuple(sorted({**settings, **more}.items())), threat, run, objective="boundary")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
