"""AutoAttack (Croce & Hein 2020; L1: Croce & Hein 2021): the published ensembles, with their published parameters."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from corral.attacks.apgd import apgd_outcome
from corral.attacks.attack import Attack, Setting
from corral.attacks.balls import ALL_NORMS, Norm
from corral.attacks.cascade import Cascade, cascade
from corral.attacks.checks import check_batch
from corral.attacks.fab import fab_outcome
from corral.attacks.outcome import Outcome
from corral.attacks.square import square_outcome
from corral.attacks.state import attacked

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
    attacks = ensemble(version, norm, count_classes(model, x))
    batches = zip(torch.split(x, batch_size), torch.split(y, batch_size), strict=True)
    return torch.cat([cascade(attacks, model, a, b, eps=eps, norm=norm, seed=seed).outcome.x_adv for a, b in batches])


def autoattack_outcome(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: Norm = "Linf", seed: int = 0
) -> Cascade:
    """The standard ensemble on one batch, with which attack broke each image and at which step."""
    check_batch(x, y, eps, norm, norms=ALL_NORMS)
    return cascade(standard_attacks(norm, count_classes(model, x)), model, x, y, eps=eps, norm=norm, seed=seed)


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


def ensemble(version: Version, norm: Norm, classes: int) -> tuple[Attack, ...]:
    """The attacks of a published version of AutoAttack.

    Raises:
        ValueError: another version.
    """
    versions: dict[str, Callable[[Norm, int], tuple[Attack, ...]]] = {
        "standard": standard_attacks,
        "plus": plus_attacks,
        "rand": rand_attacks,
    }
    if version not in versions:
        raise ValueError(f"version {version!r} is not one of {', '.join(get_args(Version))}")
    return versions[version](norm, classes)


def standard_attacks(norm: Norm, classes: int) -> tuple[Attack, ...]:
    """APGD-CE, APGD-T, FAB-T and Square; for L1 with 5 restarts of APGD-CE and 5 targets of APGD-T, as published."""
    restarts, targets = (5, 5) if norm == "L1" else (1, TARGETS)
    return (
        _apgd_ce(restarts),
        _apgd_t(1, min(targets, classes - 1), classes),
        _fab_t(1, min(TARGETS, classes - 1)),
        _square(),
    )


def plus_attacks(norm: Norm, classes: int) -> tuple[Attack, ...]:
    """The standard attacks with 5 restarts, and the untargeted APGD-DLR and FAB besides."""
    rivals = min(TARGETS, classes - 1)
    return (
        _apgd_ce(5),
        _apgd_dlr(5, classes),
        _fab(5),
        _square(),
        _apgd_t(1, rivals, classes),
        _fab_t(5, rivals),
    )


def rand_attacks(norm: Norm, classes: int) -> tuple[Attack, ...]:
    """APGD-CE and APGD-DLR with gradients averaged over 20 passes."""
    return (_apgd_ce(1, EOT), _apgd_dlr(1, classes, EOT))


def _apgd_ce(restarts: int, eot: int = 1) -> Attack:
    def run(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: Norm, seed: int) -> Outcome:
        return apgd_outcome(model, x, y, eps=eps, norm=norm, steps=STEPS, restarts=restarts, eot=eot, seed=seed)

    words = f"Auto-PGD on cross-entropy, {STEPS} steps, {_counted(restarts, 'restart')}{_averaged(eot)}"
    return _attack("apgd-ce", words, run, steps=STEPS, restarts=restarts, objective="cross_entropy", eot=eot)


def _apgd_dlr(restarts: int, classes: int, eot: int = 1) -> Attack:
    objective: Literal["dlr", "margin"] = "dlr" if classes >= 3 else "margin"

    def run(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: Norm, seed: int) -> Outcome:
        return apgd_outcome(
            model,
            x,
            y,
            eps=eps,
            norm=norm,
            steps=STEPS,
            restarts=restarts,
            objective=objective,
            eot=eot,
            seed=seed,
        )

    loss = "the difference of logits ratio" if classes >= 3 else "the margin (2 classes have no DLR)"
    words = f"Auto-PGD on {loss}, {STEPS} steps, {_counted(restarts, 'restart')}{_averaged(eot)}"
    return _attack("apgd-dlr", words, run, steps=STEPS, restarts=restarts, objective=objective, eot=eot)


def _apgd_t(restarts: int, targets: int, classes: int) -> Attack:
    def run(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: Norm, seed: int) -> Outcome:
        return apgd_outcome(model, x, y, eps=eps, norm=norm, steps=STEPS, restarts=restarts, targets=targets, seed=seed)

    objective = "targeted_dlr" if classes >= 4 else "targeted_margin"
    loss = (
        "the targeted difference of logits ratio" if classes >= 4 else "the targeted margin (below 4 classes: no DLR)"
    )
    words = f"Auto-PGD on {loss}, {_counted(targets, 'target')}, {STEPS} steps, {_counted(restarts, 'restart')} of each"
    return _attack("apgd-t", words, run, steps=STEPS, restarts=restarts, objective=objective, targets=targets)


def _fab(restarts: int) -> Attack:
    def run(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: Norm, seed: int) -> Outcome:
        return fab_outcome(model, x, y, eps=eps, norm=norm, steps=STEPS, restarts=restarts, seed=seed)

    words = f"FAB, {STEPS} steps, {_counted(restarts, 'restart')}"
    return _attack("fab", words, run, steps=STEPS, restarts=restarts, targets=0)


def _fab_t(restarts: int, targets: int) -> Attack:
    def run(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: Norm, seed: int) -> Outcome:
        return fab_outcome(model, x, y, eps=eps, norm=norm, steps=STEPS, restarts=restarts, targets=targets, seed=seed)

    words = f"targeted FAB, {_counted(targets, 'target')}, {STEPS} steps, {_counted(restarts, 'restart')} of each"
    return _attack("fab-t", words, run, steps=STEPS, restarts=restarts, targets=targets)


def _square() -> Attack:
    def run(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: Norm, seed: int) -> Outcome:
        return square_outcome(model, x, y, eps=eps, norm=norm, queries=QUERIES, seed=seed)

    words = f"Square attack on the margin, {QUERIES:,} queries, no gradients, 1 restart"
    return _attack("square", words, run, queries=QUERIES, restarts=1, objective="margin")


def _attack(name: str, words: str, run: Callable[..., Outcome], **settings: Setting) -> Attack:
    return Attack(name, words, tuple(sorted(settings.items())), run)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _averaged(eot: int) -> str:
    return f", gradients averaged over {eot} passes" if eot > 1 else ""
