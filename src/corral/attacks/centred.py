"""PGD as max-Mahalanobis centre training and MAT report it, and PGD on the loss that a model was trained with."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corral.attacks.attack import Attack, Setting
from corral.attacks.attacked_model import AttackedModel
from corral.attacks.noise import image_keys, integers
from corral.attacks.objectives import ModelObjective, Objective, ObjectiveName, ThroughHead, clusters_of
from corral.attacks.outcome import Outcome
from corral.attacks.pgd import pgd_outcome
from corral.attacks.registry import register_binder
from corral.attacks.rivals import MmcObjective
from corral.attacks.threat import Threat
from corral.attacks.training_loss import CROSS_ENTROPY as CROSS_ENTROPY
from corral.attacks.training_loss import TrainingLoss as TrainingLoss
from corral.errors import UsageError
from corral.models import Head
from corral.models.centre_logits import CentreLogits
from corral.models.linear_equivalent import centres_of_equal_length

# Steps of the papers' PGD, and the share of eps that one goes: 2/255 at 8/255.
SHORT, LONG, STEP = 10, 50, 0.25
# Steps of the PGD that papers on robust encoders report.
ENCODERS = 20
# Lengths of centres whose inner products are attacked, beside the model's own logits and the cosines.
LENGTHS = (10, 3, 1)
# Which draw of an image's random numbers its target class is; the random start takes the restarts' own.
TARGET_DRAW = 2**20

Made = Callable[[int], ObjectiveName | ModelObjective]


class RandomTarget:
    """Minus the cross-entropy toward another class than the label, drawn once an image: a targeted attack.

    Args:
        seed: with the image it decides the class.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def bind(self, model: nn.Module, x: Tensor, y: Tensor) -> Objective:
        """The objective for a batch.

        Raises:
            ValueError: fewer than two classes, or a label outside them.
        """
        with torch.no_grad():
            classes = model(x[:1]).shape[1]
        if classes < 2:
            raise ValueError(f"a target needs a second class, the model has {classes}")
        if int(y.max()) >= classes:
            raise ValueError(f"label {int(y.max())} is outside the model's {classes} classes")
        targets = random_targets(x, y, classes, self.seed)

        def evaluate(x_adv: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            logits = model(x_adv)
            return -F.cross_entropy(logits, targets[rows], reduction="none"), logits

        return evaluate


def random_targets(x: Tensor, y: Tensor, classes: int, seed: int) -> Tensor:
    """(N,) classes other than the label, uniform, the same for an image in any batch."""
    drawn = integers(image_keys(x, seed), TARGET_DRAW, classes - 1)
    return drawn + (drawn >= y).long()


def centred_attacks(model: nn.Module, *, threat: Threat, training: TrainingLoss) -> tuple[Attack, ...]:
    """PGD-10 and PGD-50, untargeted and toward a random class, as MMC and MAT report them, and adaptive PGD-50.

    All take steps of eps / 4, have one random start, and only the last image counts; an image is lost if it is
    misclassified, whatever the target was. Others climb the loss of training (MAT, Sec. 4.4) and, against heads of one
    centre a class, the max-Mahalanobis centre loss: the objective by which Tramèr et al. (2020) brought MMC below 0.5%.
    The last ones, against centres of equal length, are PGD-50 on other logits of the same decision (`logit_attacks`).

    Args:
        model: to attack; a classifier with a cluster head of one centroid a class meets the centre loss too.
        threat: norm and radius.
        training: the loss that the model was trained with.
    """
    entropy: ObjectiveName = "cross_entropy"
    rows: list[tuple[str, str, str, int, Made]] = []
    for steps in (SHORT, LONG):
        rows += [
            (f"pgd_{steps}", "the cross-entropy of the logits", entropy, steps, _always(entropy)),
            (
                f"pgd_{steps}_targeted",
                "minus the cross-entropy toward a random other class",
                "random_target",
                steps,
                RandomTarget,
            ),
        ]
    words = f"the loss of training, {training.name}"
    rows.append((f"pgd_{LONG}_training", words, training.name, LONG, _always(training.objective)))
    clusters = clusters_of(model)
    if clusters is not None and clusters.index.shape[1] == 1:
        rows.append(
            (f"pgd_{LONG}_mmc", "half the squared distance to the own centre", "mmc", LONG, _always(MmcObjective()))
        )
    made = [_attack(*row, threat=threat, more=training.weights if row[0].endswith("training") else ()) for row in rows]
    return (*made, *logit_attacks(model, threat=threat))


def logit_attacks(model: nn.Module, *, threat: Threat) -> tuple[Attack, ...]:
    """PGD-50 on the cross-entropy of each of MAT's logits, inner products with centres of a length and cosines.

    MAT takes “the cosine similarities to each class center as the logits” and simplifies them to inner products, whose
    largest is the same (Sec. 3.3): the decision depends on neither choice, what a softmax lets the attack see does.
    The model's own logits decide.

    Args:
        model: to attack; without one centroid a class of equal lengths there are no such logits, and no attacks.
        threat: norm and radius.
    """
    clusters = clusters_of(model)
    if clusters is None or centres_of_equal_length(clusters) is None:
        return ()
    name, cosines = f"pgd_{LONG}_cosine", "the cross-entropy of cosines with the centres"
    found = [
        _attack(
            name, cosines, "cosine_cross_entropy", LONG, _always(ThroughHead(_centre_logits)), threat=threat, more=()
        )
    ]
    for length in LENGTHS:
        through = ThroughHead(partial(_centre_logits, length=float(length)))
        words = f"the cross-entropy of inner products with the centres, their length made {length}"
        name, more = f"pgd_{LONG}_length_{length}", (("centre_length", float(length)),)
        found.append(_attack(name, words, "inner_cross_entropy", LONG, _always(through), threat=threat, more=more))
    return tuple(found)


def _centre_logits(head: Head, length: float | None = None) -> CentreLogits:
    """MAT's logits on the centres of a head that has clusters."""
    assert head.clusters is not None
    return CentreLogits(head.clusters, length)


def encoder_attacks(*, threat: Threat) -> tuple[Attack, ...]:
    """PGD-20 on the cross-entropy as papers on robust encoders report it (NCP-ACL, Sec. 4.1): steps of eps / 4.

    One random start, and only the last image counts.

    Args:
        threat: norm and radius.
    """
    entropy: ObjectiveName = "cross_entropy"
    row = (f"pgd_{ENCODERS}", "the cross-entropy of the logits", entropy, ENCODERS, _always(entropy))
    return (_attack(*row, threat=threat, more=()),)


def _always(objective: ObjectiveName | ModelObjective) -> Made:
    return lambda seed: objective


def _attack(
    name: str,
    words: str,
    objective: str,
    steps: int,
    made: Made,
    *,
    threat: Threat,
    more: tuple[tuple[str, Setting], ...],
) -> Attack:
    step_size = STEP * threat.eps

    def run(model: nn.Module, x: Tensor, y: Tensor, *, seed: int) -> Outcome:
        return pgd_outcome(
            model,
            x,
            y,
            eps=threat.eps,
            norm=threat.norm,
            steps=steps,
            step_size=step_size,
            objective=made(seed),
            seed=seed,
            keep="max_loss_restart",
        )

    settings: tuple[tuple[str, Setting], ...] = (
        ("steps", steps),
        ("step_size", step_size),
        ("restarts", 1),
        ("objective", objective),
        ("success_rule", "max_loss_restart"),
        *more,
    )
    description = f"PGD-{steps} on {words}, step eps/4, one random start, its last image counts"
    return Attack(name, description, settings, threat, run)


def _named(name: str) -> None:
    """Register one of the attacks above by its name."""

    def bind(target: AttackedModel, threat: Threat) -> Attack:
        training = target.training_loss() if name.endswith("training") else CROSS_ENTROPY
        made = (*centred_attacks(target.model, threat=threat, training=training), *encoder_attacks(threat=threat))
        found = next((attack for attack in made if attack.name == name), None)
        if found is None:
            raise UsageError(f"attack {name} is for heads of one centre a class (the lengths: of equal length)")
        return found

    register_binder(name, f"{name}, as the protocols centred and encoder have it")(bind)


for _steps in (SHORT, LONG):
    _named(f"pgd_{_steps}")
    _named(f"pgd_{_steps}_targeted")
for _end in ("training", "mmc", "cosine", *(f"length_{length}" for length in LENGTHS)):
    _named(f"pgd_{LONG}_{_end}")
_named(f"pgd_{ENCODERS}")
