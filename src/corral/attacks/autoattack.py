"""AutoAttack (Croce & Hein 2020; L1: Croce & Hein 2021): the published ensembles, with their published parameters."""

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from corral.attacks.apgd.attack import apgd
from corral.attacks.attack import Attack, Setting, bound
from corral.attacks.attacked_model import AttackedModel
from corral.attacks.balls import ALL_NORMS, Norm
from corral.attacks.checks import check_batch, check_counts
from corral.attacks.engine import Attacked, run_attacks
from corral.attacks.fab.attack import fab
from corral.attacks.outcome import Outcome
from corral.attacks.registry import register_binder
from corral.attacks.square.attack import square
from corral.attacks.state import attacked
from corral.attacks.threat import Threat

Version = Literal["standard", "plus", "rand"]
STEPS, QUERIES, TARGETS, EOT = 100, 5000, 9, 20


def autoattack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: Norm = "Linf",
    version: Version = "standard",
    batch_size: int = 256,
    seed: int = 0,
) -> Tensor:
    """AutoAttack: each attack of the ensemble in turn on the images that the ones before left standing.

    Args:
        model: any module from float [0, 1] images to (N, C) logits; attacked in eval mode, its state is restored.
        x: (N, ...) clean images in [0, 1].
        y: (N,) int64 labels.
        eps: radius in pixel units and `norm`.
        norm: "Linf", "L2" or "L1".
        version: "standard" (APGD-CE, APGD-T, FAB-T, Square), "plus" (more restarts and the untargeted attacks too) or
            "rand" (APGD-CE and APGD-DLR with 20 passes a gradient, for models that answer at random).
        batch_size: images attacked at a time; the result does not depend on it beyond the model's own rounding.
        seed: of all random numbers.

    Returns:
        Adversarial images like x, within eps and [0, 1]: misclassified ones where found.

    Raises:
        ValueError: impossible arguments or labels, images that are not finite or not in [0, 1].
        CorralError: the model's logits or gradients are not finite.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, found {batch_size}")
    check_batch(x, y, eps, norm, norms=ALL_NORMS)
    if not len(x):
        return x.detach().clone()
    attacks = ensemble(version, Threat(norm, eps), count_classes(model, x))
    return run_attacks(model, x, y, attacks, seed=seed, batch_size=batch_size).x_adv


def autoattack_outcome(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: Norm = "Linf", seed: int = 0
) -> Attacked:
    """The standard ensemble on one batch, with which attack broke each image and at which step."""
    check_batch(x, y, eps, norm, norms=ALL_NORMS)
    return run_attacks(model, x, y, standard_attacks(Threat(norm, eps), count_classes(model, x)), seed=seed)


def count_classes(model: nn.Module, x: Tensor) -> int:
    """The number of logits that a model gives, from one image.

    Raises:
        ValueError: no image, logits that are not (N, C), or fewer than 2 of them.
    """
    if not len(x):
        raise ValueError("counting the classes needs an image, found none")
    with attacked(model), torch.no_grad():
        logits = model(x[:1])
    if logits.dim() != 2 or len(logits) != 1 or logits.shape[1] < 2:
        raise ValueError(f"the model must give logits (1, classes) with 2 classes or more, found {tuple(logits.shape)}")
    return int(logits.shape[1])


def ensemble(version: Version, threat: Threat, classes: int) -> tuple[Attack, ...]:
    """The attacks of a published version of AutoAttack.

    Raises:
        ValueError: another version.
    """
    versions: dict[str, Callable[[Threat, int], tuple[Attack, ...]]] = {
        "standard": standard_attacks,
        "plus": plus_attacks,
        "rand": rand_attacks,
    }
    if version not in versions:
        raise ValueError(f"version {version!r} is not one of {', '.join(get_args(Version))}")
    return versions[version](threat, classes)


def standard_attacks(threat: Threat, classes: int) -> tuple[Attack, ...]:
    """APGD-CE, APGD-T, FAB-T and Square; for L1 with 5 restarts of APGD-CE and 5 targets of APGD-T, as published."""
    restarts, targets = (5, 5) if threat.norm == "L1" else (1, TARGETS)
    return (
        _apgd_ce(threat, restarts),
        _apgd_t(threat, 1, min(targets, classes - 1), classes),
        _fab_t(threat, 1, min(TARGETS, classes - 1)),
        _square(threat),
    )


def plus_attacks(threat: Threat, classes: int) -> tuple[Attack, ...]:
    """The standard attacks with 5 restarts, and the untargeted APGD-DLR and FAB besides."""
    rivals = min(TARGETS, classes - 1)
    return (
        _apgd_ce(threat, 5),
        _apgd_dlr(threat, 5, classes),
        _fab(threat, 5),
        _square(threat),
        _apgd_t(threat, 1, rivals, classes),
        _fab_t(threat, 5, rivals),
    )


def rand_attacks(threat: Threat, classes: int) -> tuple[Attack, ...]:
    """APGD-CE and APGD-DLR with gradients averaged over 20 passes."""
    return (_apgd_ce(threat, 1, EOT), _apgd_dlr(threat, 1, classes, EOT))


def _apgd_ce(threat: Threat, restarts: int, eot: int = 1, steps: int = STEPS) -> Attack:
    words = f"Auto-PGD on cross-entropy, {steps} steps, {_counted(restarts, 'restart')}{_averaged(eot)}"
    settings: dict[str, Setting] = {"steps": steps, "restarts": restarts, "objective": "cross_entropy", "eot": eot}
    return _attack("apgd-ce", words, threat, apgd.outcome, settings)


def _apgd_dlr(threat: Threat, restarts: int, classes: int, eot: int = 1, steps: int = STEPS) -> Attack:
    loss = "the difference of logits ratio" if classes >= 3 else "the margin (2 classes have no DLR)"
    words = f"Auto-PGD on {loss}, {steps} steps, {_counted(restarts, 'restart')}{_averaged(eot)}"
    objective = "dlr" if classes >= 3 else "margin"
    settings: dict[str, Setting] = {"steps": steps, "restarts": restarts, "objective": objective, "eot": eot}
    return _attack("apgd-dlr", words, threat, apgd.outcome, settings)


def _apgd_t(threat: Threat, restarts: int, targets: int, classes: int, steps: int = STEPS) -> Attack:
    objective = "targeted_dlr" if classes >= 4 else "targeted_margin"
    loss = (
        "the targeted difference of logits ratio" if classes >= 4 else "the targeted margin (below 4 classes: no DLR)"
    )
    words = f"Auto-PGD on {loss}, {_counted(targets, 'target')}, {steps} steps, {_counted(restarts, 'restart')} of each"
    settings = {"steps": steps, "restarts": restarts, "targets": targets}
    return _attack("apgd-t", words, threat, apgd.outcome, settings, objective=objective)


def _fab(threat: Threat, restarts: int, steps: int = STEPS) -> Attack:
    words = f"FAB, {steps} steps, {_counted(restarts, 'restart')}"
    return _attack("fab", words, threat, fab.outcome, {"steps": steps, "restarts": restarts, "targets": 0})


def _fab_t(threat: Threat, restarts: int, targets: int, steps: int = STEPS) -> Attack:
    words = f"targeted FAB, {_counted(targets, 'target')}, {steps} steps, {_counted(restarts, 'restart')} of each"
    return _attack("fab-t", words, threat, fab.outcome, {"steps": steps, "restarts": restarts, "targets": targets})


def _square(threat: Threat, restarts: int = 1, queries: int | None = None) -> Attack:
    queries = QUERIES if queries is None else queries
    words = f"Square attack on the margin, {queries:,} queries, no gradients, {_counted(restarts, 'restart')}"
    settings: dict[str, Setting] = {"queries": queries, "restarts": restarts}
    return _attack("square", words, threat, square.outcome, settings, objective="margin")


def _attack(
    name: str,
    words: str,
    threat: Threat,
    function: Callable[..., Outcome],
    settings: Mapping[str, Setting],
    **told: Setting,
) -> Attack:
    """The attack that runs `function` with `settings` at a threat; `told` is what the record says beside them."""
    run = bound(function, threat, **settings)
    return Attack(name, words, tuple(sorted({**settings, **told}.items())), threat, run, objective="boundary")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _averaged(eot: int) -> str:
    return f", gradients averaged over {eot} passes" if eot > 1 else ""


@register_binder("apgd-ce", "Auto-PGD on the cross-entropy (Croce & Hein 2020)")
def _ce(target: AttackedModel, threat: Threat, *, steps: int = STEPS, restarts: int = 1, eot: int = 1) -> Attack:
    check_counts(steps=steps, restarts=restarts, eot=eot)
    return _apgd_ce(threat, restarts, eot, steps)


@register_binder("apgd-dlr", "Auto-PGD on the difference of logits ratio")
def _dlr(target: AttackedModel, threat: Threat, *, steps: int = STEPS, restarts: int = 1, eot: int = 1) -> Attack:
    check_counts(steps=steps, restarts=restarts, eot=eot)
    return _apgd_dlr(threat, restarts, target.classes, eot, steps)


@register_binder("apgd-t", "Auto-PGD on the targeted difference of logits ratio, toward the likeliest rivals")
def _t(
    target: AttackedModel, threat: Threat, *, steps: int = STEPS, restarts: int = 1, targets: int = TARGETS
) -> Attack:
    check_counts(steps=steps, restarts=restarts, targets=targets)
    return _apgd_t(threat, restarts, min(targets, target.classes - 1), target.classes, steps)


@register_binder("fab", "the fast adaptive boundary attack (Croce & Hein 2020), untargeted")
def _boundary(target: AttackedModel, threat: Threat, *, steps: int = STEPS, restarts: int = 1) -> Attack:
    check_counts(steps=steps, restarts=restarts)
    return _fab(threat, restarts, steps)


@register_binder("fab-t", "the fast adaptive boundary attack, toward the likeliest rivals")
def _boundary_t(
    target: AttackedModel, threat: Threat, *, steps: int = STEPS, restarts: int = 1, targets: int = TARGETS
) -> Attack:
    check_counts(steps=steps, restarts=restarts, targets=targets)
    return _fab_t(threat, restarts, min(targets, target.classes - 1), steps)


@register_binder("square", "Square Attack (Andriushchenko et al. 2020): random search, no gradients")
def _random_search(target: AttackedModel, threat: Threat, *, queries: int = QUERIES, restarts: int = 1) -> Attack:
    check_counts(queries=queries, restarts=restarts)
    return _square(threat, restarts, queries)
