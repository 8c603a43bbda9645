"""The adaptive ensemble: Auto-PGD on every objective that knows the model's head, the worst case over them an image."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from corral.attacks.apgd.attack import apgd
from corral.attacks.attack import Attack, Runner, Setting, bound
from corral.attacks.attacked_model import AttackedModel
from corral.attacks.balls import ALL_NORMS, Norm
from corral.attacks.checks import take_batch
from corral.attacks.engine import Attacked, run_attacks
from corral.attacks.function import images_of
from corral.attacks.objectives import clusters_of
from corral.attacks.outcome import Outcome
from corral.attacks.registry import register_binder
from corral.attacks.rivals import MatObjective, RivalObjective
from corral.attacks.threat import Threat
from corral.attacks.training_loss import CROSS_ENTROPY, TrainingLoss
from corral.errors import UsageError
from corral.models import Clusters

# The steps of AutoAttack's Auto-PGD, the restarts of its "plus" version, and its number of targets.
STEPS, RESTARTS, TARGETS = 100, 5, 9
# Rival centroids attacked one after the other, nearest first: all of them on ten classes of up to three centroids.
MOST_RIVALS = 30
# Seeds of the rivals' random starts lie this far apart, so that every rival has starts of its own.
SEEDS_APART = 2**32


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
    """The worst case per image over the members of `adaptive_attacks`, each on the images still classified right.

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
        `ensemble_adaptive`: adversarial images like x, within eps and [0, 1], misclassified ones where found.
        `adaptive_outcome`: the same with each image's first successful member (its index in `adaptive_attacks`) and
        its step.

    Raises:
        ValueError: impossible arguments or labels, images that are not finite or not in [0, 1].
        CorralError: the model's logits or gradients are not finite.
    """
    x, y, eps = take_batch(x, y, eps, norm, norms=ALL_NORMS)
    members = adaptive_attacks(model, threat=Threat(norm, eps), steps=steps, restarts=restarts, eot=eot)
    return run_attacks(model, x, y, members, seed=seed)


ensemble_adaptive = images_of(adaptive_outcome)
ensemble_adaptive.__name__ = ensemble_adaptive.__qualname__ = "ensemble_adaptive"


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

    Every model is attacked on cross-entropy and margin of the logits (a cluster head's are in log space) and on the
    targeted difference of logits ratio; a cluster head also on the Magnet loss and toward each rival centroid in turn;
    one with a single centroid a class also on MAT's training loss. The loss that the model was trained with comes last
    where it is none of these; MAT's has the weights of training.

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
    averaged = f", gradients averaged over {eot} passes" if eot > 1 else ""

    def member(
        name: str, words: str, run: Runner, starts: int, tries: str, more: tuple[tuple[str, Setting], ...] = ()
    ) -> Attack:
        counts: tuple[tuple[str, Setting], ...] = (("eot", eot), ("restarts", starts), ("steps", steps))
        words = f"Auto-PGD on {words}, {steps} steps, {tries}{averaged}"
        return Attack(name, words, (*counts, ("objective", name), *more), threat, run)

    def untargeted(loss: TrainingLoss, words: str) -> Attack:
        run = bound(apgd.outcome, threat, objective=loss.objective, steps=steps, restarts=restarts, eot=eot)
        return member(loss.name, words, run, restarts, f"{restarts} restart{'s' * (restarts > 1)}", loss.weights)

    members = [
        untargeted(CROSS_ENTROPY, "cross-entropy of the logits"),
        untargeted(TrainingLoss("margin", "margin"), "the margin of the logits"),
        member(
            "targeted_dlr",
            f"the targeted difference of logits ratio (below 4 classes: of logits) toward the {TARGETS} likeliest "
            "rivals, or all if fewer",
            bound(apgd.outcome, threat, steps=steps, targets=TARGETS, eot=eot),
            1,
            "1 restart of each",
            (("targets", TARGETS),),
        ),
    ]
    clusters = clusters_of(model)
    if clusters is not None:
        if clusters.by_distance:
            loss = TrainingLoss("magnet", "magnet")
            members.append(untargeted(loss, "the Magnet loss against the head's centroids"))
        if ranks := _ranks(clusters):
            words = (
                "the difference of squared distances to the nearest own and a rival centroid, the "
                f"{ranks} nearest rivals in turn"
            )
            run = partial(_rivals, tuple(_rival(threat, rank, steps, eot) for rank in range(ranks)), steps)
            members.append(member("rival_centroids", words, run, 1, "1 restart of each", (("rivals", ranks),)))
        if clusters.index.shape[1] == 1:
            weights = MatObjective()
            mat = TrainingLoss("mat", weights, (("bibo_weight", weights.bibo_weight), ("so_weight", weights.so_weight)))
            words = "MAT's training loss with the cosine distance to the clean features"
            members.append(untargeted(training if training is not None and training.name == "mat" else mat, words))
    if training is not None and training.name not in [one.name for one in members]:
        members.append(untargeted(training, f"the loss of training, {training.name}"))
    return tuple(members)


def _ranks(clusters: Clusters) -> int:
    """How many rivals the image with the most of them has, at most MOST_RIVALS."""
    fewest = int(torch.bincount(clusters.classes).min())
    return min(len(clusters.centroids) - fewest, MOST_RIVALS)


def _rivals(parts: tuple[Attack, ...], steps: int, model: nn.Module, x: Tensor, y: Tensor, *, seed: int) -> Outcome:
    """One rival after the other, nearest first, each on the images that are still classified right."""
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
        training = target.training_loss() if name == "training_loss" else None
        members = adaptive_attacks(
            target.model, threat=threat, steps=steps, restarts=restarts, eot=eot, training=training
        )
        wanted = name if training is None else training.name
        found = next((one for one in members if one.name == wanted), None)
        if found is None:
            raise UsageError(f"attack {name} needs a cluster head{' of one centroid a class' * (name == 'mat')}")
        return found

    def bind_once(target: AttackedModel, threat: Threat, *, steps: int = STEPS, eot: int = 1) -> Attack:
        return bind(target, threat, steps=steps, restarts=1, eot=eot)

    once = name in ("targeted_dlr", "rival_centroids")  # from one start toward each target
    register_binder(name, f"Auto-PGD on {summary}, as the adaptive ensemble has it")(bind_once if once else bind)


_named("cross_entropy", "the cross-entropy of the logits")
_named("margin", "the margin of the logits")
_named("targeted_dlr", "the targeted difference of logits ratio")
_named("magnet", "the Magnet loss against a cluster head's centroids")
_named("rival_centroids", "the pull toward each rival centroid in turn")
_named("mat", "MAT's training loss, for heads of one centroid a class")
_named("training_loss", "the loss that the model was trained with")
