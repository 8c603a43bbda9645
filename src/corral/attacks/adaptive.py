"""The adaptive ensemble: Auto-PGD on every objective that knows the model's head, the worst case over them an image."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from corral.attacks.apgd.attack import apgd
from corral.attacks.attack import Attack, Setting, bound
from corral.attacks.attacked_model import AttackedModel
from corral.attacks.balls import ALL_NORMS, Norm
from corral.attacks.checks import check_batch
from corral.attacks.engine import Attacked, run_attacks
from corral.attacks.objectives import ModelObjective, ObjectiveName, clusters_of
from corral.attacks.outcome import Outcome
from corral.attacks.registry import register_binder
from corral.attacks.rivals import MatObjective, RivalObjective
from corral.attacks.threat import Threat
from corral.attacks.training_loss import TrainingLoss
from corral.errors import UsageError
from corral.models import Clusters

# The steps of AutoAttack's Auto-PGD, the restarts of its "plus" version, and its number of targets.
STEPS, RESTARTS, TARGETS = 100, 5, 9
# Rival centroids attacked one after the other, nearest first: all of them on ten classes of up to three centroids.
MOST_RIVALS = 30
# Seeds of the rivals' random starts lie this far apart, so that every rival has starts of its own.
SEEDS_APART = 2**32


def ensemble_adaptive(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: Norm = "Linf",
    steps: int = STEPS,
    restarts: int = RESTARTS,
    eot: int = 1,
    seed: int = 0,
) -> Tensor:
    """The worst case per image over the members of `adaptive_attacks`, each on what the ones before left standing.

    Args:
        model: any module from float [0, 1] images to (N, C) logits; a corral Classifier with a ClusterHead is also
            attacked through its features and centroids. Its state is restored.
        x: (N, ...) clean images in [0, 1].
        y: (N,) int64 labels.
        eps: radius in pixel units and `norm`.
        norm: "Linf", "L2" or "L1".
        steps: gradient steps an attempt.
        restarts: random starts of each untargeted member; the targeted ones start once for each target.
        eot: passes averaged into each gradient (expectation over transformation), for models that answer at random.
        seed: of the random starts.

    Returns:
        Adversarial images like x, within eps and [0, 1]: misclassified ones where found.

    Raises:
        ValueError: impossible arguments or labels, images that are not finite or not in [0, 1].
        CorralError: the model's logits or gradients are not finite.
    """
    found = adaptive_outcome(model, x, y, eps=eps, norm=norm, steps=steps, restarts=restarts, eot=eot, seed=seed)
    return found.outcome.x_adv


def adaptive_outcome(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: Norm = "Linf",
    steps: int = STEPS,
    restarts: int = RESTARTS,
    eot: int = 1,
    seed: int = 0,
) -> Attacked:
    """`ensemble_adaptive` with which member broke each image (its place in `adaptive_attacks`), and at which step."""
    check_batch(x, y, eps, norm, norms=ALL_NORMS)
    members = adaptive_attacks(model, threat=Threat(norm, eps), steps=steps, restarts=restarts, eot=eot)
    return run_attacks(model, x, y, members, seed=seed)


def adaptive_attacks(
    model: nn.Module,
    *,
    threat: Threat,
    steps: int = STEPS,
    restarts: int = RESTARTS,
    eot: int = 1,
    training: TrainingLoss | None = None,
) -> tuple[Attack, ...]:
    """The members of the ensemble for a model's kind of head.

    Every model meets cross-entropy and margin of the logits (a cluster head's are in log space) and the targeted
    difference of logits ratio; a cluster head also the Magnet loss and each rival centroid in turn; one with a single
    centroid a class also MAT's training loss. A linear head has no centroids: the last three are not in its list.
    The loss that the model was trained with comes last where it is none of these; MAT's has the weights of training.

    Args:
        model: any module.
        threat: norm and radius.
        steps: gradient steps an attempt.
        restarts: random starts of each untargeted member.
        eot: passes averaged into each gradient.
        training: the loss that the model was trained with, where it is known.

    Raises:
        ValueError: a number below 1.
    """
    if min(steps, restarts, eot) < 1:
        raise ValueError(f"steps, restarts and eot must be >= 1, found {steps}, {restarts}, {eot}")
    common = (("eot", eot), ("restarts", restarts), ("steps", steps))
    once = (("eot", eot), ("restarts", 1), ("steps", steps))
    tries = f"{steps} steps, {restarts} restart{'' if restarts == 1 else 's'}"
    tries_once = f"{steps} steps, 1 restart of each"
    if eot > 1:
        averaged = f", gradients averaged over {eot} passes"
        tries, tries_once = tries + averaged, tries_once + averaged

    def untargeted(
        name: str,
        words: str,
        objective: ObjectiveName | ModelObjective,
        weights: tuple[tuple[str, Setting], ...] = (),
    ) -> Attack:
        run = bound(apgd.outcome, threat, objective=objective, steps=steps, restarts=restarts, eot=eot)
        return Attack(name, f"Auto-PGD on {words}, {tries}", (*common, ("objective", name), *weights), threat, run)

    members = [
        untargeted("cross_entropy", "cross-entropy of the logits", "cross_entropy"),
        untargeted("margin", "the margin of the logits", "margin"),
        Attack(
            "targeted_dlr",
            f"Auto-PGD on the targeted difference of logits ratio (below 4 classes: of logits) toward the {TARGETS} "
            f"likeliest rivals, or all if fewer, {tries_once}",
            (*once, ("objective", "targeted_dlr"), ("targets", TARGETS)),
            threat,
            bound(apgd.outcome, threat, steps=steps, targets=TARGETS, eot=eot),
        ),
    ]
    clusters = clusters_of(model)
    if clusters is not None:
        if clusters.by_distance:
            members.append(untargeted("magnet", "the Magnet loss against the head's centroids", "magnet"))
        ranks = _ranks(clusters)
        if ranks:
            members.append(
                Attack(
                    "rival_centroids",
                    f"Auto-PGD on the difference of squared distances to the nearest own and a rival centroid, the "
                    f"{ranks} nearest rivals in turn, {tries_once}",
                    (*once, ("objective", "rival_centroids"), ("rivals", ranks)),
                    threat,
                    partial(_rivals, tuple(_rival(threat, rank, steps, eot) for rank in range(ranks)), steps),
                )
            )
        if clusters.index.shape[1] == 1:
            mat = training if training is not None and training.name == "mat" else _mat()
            words = "MAT's training loss with the cosine distance to the clean features"
            members.append(untargeted("mat", words, mat.objective, mat.weights))
    if training is not None and training.name not in [member.name for member in members]:
        words = f"the loss of training, {training.name}"
        members.append(untargeted(training.name, words, training.objective, training.weights))
    return tuple(members)


def _mat() -> TrainingLoss:
    """MAT's loss with its terms at equal weights."""
    mat = MatObjective()
    weights = (("bibo_weight", mat.bibo_weight), ("so_weight", mat.so_weight))
    return TrainingLoss("mat", mat, weights)


def _ranks(clusters: Clusters) -> int:
    """How many rivals the image with the most of them has, at most MOST_RIVALS."""
    fewest = int(torch.bincount(clusters.classes).min())
    return min(len(clusters.centroids) - fewest, MOST_RIVALS)


def _rivals(parts: tuple[Attack, ...], steps: int, model: nn.Module, x: Tensor, y: Tensor, *, seed: int) -> Outcome:
    """One rival after the other, nearest first, each on the images that stand."""
    found = run_attacks(model, x, y, parts, seed=seed)
    before = found.by.clamp_min(0) * (steps + 1)
    return replace(found.outcome, step=found.outcome.step + before)


def _rival(threat: Threat, rank: int, steps: int, eot: int) -> Attack:
    attack = bound(apgd.outcome, threat, objective=RivalObjective(rank), steps=steps, eot=eot)

    def run(model: nn.Module, x: Tensor, y: Tensor, *, seed: int) -> Outcome:
        return attack(model, x, y, seed=seed + rank * SEEDS_APART)

    return Attack(f"rival {rank}", "", (), threat, run)


def _named(name: str, summary: str) -> None:
    """Register a member of the ensemble by its name; "training_loss" is the one that the model's recipe adds."""

    def bind(
        target: AttackedModel, threat: Threat, *, steps: int = STEPS, restarts: int = RESTARTS, eot: int = 1
    ) -> Attack:
        return _member(name, target, threat, steps, restarts, eot)

    def bind_once(target: AttackedModel, threat: Threat, *, steps: int = STEPS, eot: int = 1) -> Attack:
        return _member(name, target, threat, steps, 1, eot)

    once = name in ("targeted_dlr", "rival_centroids")  # from one start toward each target
    register_binder(name, f"Auto-PGD on {summary}, as the adaptive ensemble has it")(bind_once if once else bind)


def _member(name: str, target: AttackedModel, threat: Threat, steps: int, restarts: int, eot: int) -> Attack:
    training = target.training_loss() if name == "training_loss" else None
    members = adaptive_attacks(target.model, threat=threat, steps=steps, restarts=restarts, eot=eot, training=training)
    found = next((one for one in members if one.name == (name if training is None else training.name)), None)
    if found is None:
        raise UsageError(f"attack {name} needs a cluster head{' of one centroid a class' * (name == 'mat')}")
    return found


_named("cross_entropy", "the cross-entropy of the logits")
_named("margin", "the margin of the logits")
_named("targeted_dlr", "the targeted difference of logits ratio")
_named("magnet", "the Magnet loss against a cluster head's centroids")
_named("rival_centroids", "the pull toward each rival centroid in turn")
_named("mat", "MAT's training loss, for heads of one centroid a class")
_named("training_loss", "the loss that the model was trained with")
