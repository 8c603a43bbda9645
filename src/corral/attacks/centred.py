"""PGD as max-Mahalanobis centre training and MAT report it, and PGD on the loss that a model was trained with."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corral.attacks.attack import Attack, Setting
from corral.attacks.attacked_model import AttackedModel
from corral.attacks.noise import image_keys, integers
from corral.attacks.objectives import ModelObjective, Objective, ObjectiveName, ThroughHead, clusters_of, on_logits
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
from corral.models.contract import contracted
from corral.models.linear_equivalent import centres_of_equal_length

# Steps of the papers' PGD, and the share of eps that one goes: 2/255 at 8/255.
SHORT, LONG, STEP = 10, 50, 0.25
# Steps of the PGD that papers on robust encoders report.
ENCODERS = 20
# Lengths of centres whose inner products are attacked, beside the model's own logits and the cosines.
LENGTHS = (10, 3, 1)
# Which draw of an image's random numbers its target class is; the random start takes the restarts' own.
TARGET_DRAW = 2**20


class RandomTarget:
    """Minus the cross-entropy toward another class than the label, drawn from image and seed: a targeted attack."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def bind(self, model: nn.Module, x: Tensor, y: Tensor) -> Objective:
        """As `ModelObjective`; it needs two classes or more, and labels inside them."""
        with torch.no_grad():
            classes = contracted(model)(x[:1]).shape[1]
        if classes < 2:
            raise ValueError(f"a target needs a second class, the model has {classes}")
        if int(y.max()) >= classes:
            raise ValueError(f"label {int(y.max())} is outside the model's {classes} classes")
        targets = random_targets(x, y, classes, self.seed)
        return on_logits(model, lambda logits, indices: -F.cross_entropy(logits, targets[indices], reduction="none"))


def random_targets(x: Tensor, y: Tensor, classes: int, seed: int) -> Tensor:
    """(N,) classes other than the label, uniform, the same for an image in any batch."""
    drawn = integers(image_keys(x, seed), TARGET_DRAW, classes - 1)
    return drawn + (drawn >= y).long()


def centred_attacks(model: nn.Module, *, threat: Threat, training: TrainingLoss) -> tuple[Attack, ...]:
    """PGD-10 and PGD-50, untargeted and toward a random class, as MMC and MAT report them, and adaptive PGD-50.

    All take steps of eps / 4, have one random start, and only the last image counts; an image counts as misclassified
    whatever the target was. Others climb the loss of training (MAT, Sec. 4.4) and, against heads of one centre a class,
    the max-Mahalanobis centre loss: the objective by which Tramèr et al. (2020) brought MMC below 0.5%. The last ones,
    against centres of equal length, are PGD-50 on other logits of the same decision (`logit_attacks`).

    Args:
        model: to attack.
        threat: norm and radius.
        training: the loss that the model was trained with.
    """
    found = []
    for steps in (SHORT, LONG):
        found += [
            _entropy(steps),
            _Pgd("targeted", steps, "random_target", None, "minus the cross-entropy toward a random other class"),
        ]
    words = f"the loss of training, {training.name}"
    found.append(_Pgd("training", LONG, training.name, training.objective, words, training.weights))
    clusters = clusters_of(model)
    if clusters is not None and clusters.index.shape[1] == 1:
        found.append(_Pgd("mmc", LONG, "mmc", MmcObjective(), "half the squared distance to the own centre"))
    return (*(one.at(threat) for one in found), *logit_attacks(model, threat=threat))


def logit_attacks(model: nn.Module, *, threat: Threat) -> tuple[Attack, ...]:
    """PGD-50 on the cross-entropy of each of MAT's logits, inner products with centres of a length and cosines.

    MAT takes “the cosine similarities to each class center as the logits” and simplifies them to inner products, whose
    largest is the same (Sec. 3.3): the choice leaves the decision as it is and changes the gradient of the softmax.
    The model's own logits decide.

    Args:
        model: to attack; without one centroid a class of equal lengths there are no such logits, and no attacks.
        threat: norm and radius.
    """
    clusters = clusters_of(model)
    if clusters is None or centres_of_equal_length(clusters) is None:
        return ()
    cosines = "the cross-entropy of cosines with the centres"
    found = [_Pgd("cosine", LONG, "cosine_cross_entropy", ThroughHead(_centre_logits), cosines)]
    for length in LENGTHS:
        through = ThroughHead(partial(_centre_logits, length=float(length)))
        words = f"the cross-entropy of inner products with the centres, their length made {length}"
        more = (("centre_length", float(length)),)
        found.append(_Pgd(f"length_{length}", LONG, "inner_cross_entropy", through, words, more))
    return tuple(one.at(threat) for one in found)


def _centre_logits(head: Head, length: float | None = None) -> CentreLogits:
    """MAT's logits on the centres of a head that has clusters."""
    assert head.clusters is not None
    return CentreLogits(head.clusters, length)


def encoder_attacks(*, threat: Threat) -> tuple[Attack, ...]:
    """PGD-20 on the cross-entropy as papers on robust encoders report it (NCP-ACL, Sec. 4.1): steps of eps / 4, one
    random start, and only the last image counts.
    """
    return (_entropy(ENCODERS).at(threat),)


@dataclass(frozen=True)
class _Pgd:
    """PGD of one start whose last image counts, on an objective; None is `RandomTarget` with the attack's seed."""

    suffix: str
    steps: int
    name: str
    objective: ObjectiveName | ModelObjective | None
    words: str
    more: tuple[tuple[str, Setting], ...] = ()

    def at(self, threat: Threat) -> Attack:
        """Bound to a threat."""
        settings: dict[str, Setting] = {"steps": self.steps, "step_size": STEP * threat.eps, "restarts": 1}
        given: dict[str, Any] = {**settings, "eps": threat.eps, "norm": threat.norm, "keep": "max_loss_restart"}

        def run(model: nn.Module, x: Tensor, y: Tensor, *, seed: int) -> Outcome:
            objective = RandomTarget(seed) if self.objective is None else self.objective
            return pgd_outcome(model, x, y, objective=objective, seed=seed, **given)

        recorded = (*settings.items(), ("objective", self.name), ("success_rule", "max_loss_restart"), *self.more)
        words = f"PGD-{self.steps} on {self.words}, step eps/4, one random start, its last image counts"
        return Attack("_".join(filter(None, ("pgd", str(self.steps), self.suffix))), words, recorded, threat, run)


def _entropy(steps: int) -> _Pgd:
    return _Pgd("", steps, "cross_entropy", "cross_entropy", "the cross-entropy of the logits")


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
