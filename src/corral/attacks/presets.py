"""Named PGD attacks: the papers' own, and the stronger ones that corral reports beside them."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from corral.attacks.attack import Attack, bound
from corral.attacks.attacked_model import AttackedModel
from corral.attacks.checks import check_counts
from corral.attacks.objectives import RELEASED, ObjectiveName, Released, distance_clusters, known_objective
from corral.attacks.pgd import pgd_outcome
from corral.attacks.registry import ATTACKS, NamedAttack, register_binder
from corral.attacks.threat import Threat


@dataclass(frozen=True)
class PgdPreset:
    """A PGD attack with everything but eps and norm fixed.

    `step_size` is in pixel units; None means 2.5 eps / steps, which lets every start reach the whole ball.
    `cluster_objective`, where there is one, replaces `objective` on models that decide by distances to centroids.
    """

    name: str
    description: str
    steps: int
    restarts: int
    objective: ObjectiveName
    cluster_objective: ObjectiveName | None = None
    step_size: float | None = None
    keep: Literal["best", "max_loss_restart"] = "best"

    def objective_for(self, model: nn.Module) -> ObjectiveName:
        """The objective for a model's kind of head."""
        return self.objective if distance_clusters(model) is None else self.cluster_objective or self.objective

    def step_size_for(self, eps: float) -> float:
        """The step in pixel units at a given eps."""
        return 2.5 * eps / self.steps if self.step_size is None else self.step_size

    def bind(self, target: AttackedModel, threat: Threat) -> Attack:
        """`bound`, as attacks by name are bound.

        Args:
            target: the model behind its contract.
            threat: norm and eps.
        """
        return self.bound(target.model, threat, target.released)

    def bound(self, model: nn.Module, threat: Threat, released: Released = RELEASED) -> Attack:
        """The attack on a model at a threat, with every parameter decided.

        Args:
            model: to attack.
            threat: norm and radius, which decide the step size too.
            released: what the recipe of a cluster model has in the place of the released code's own numbers; the
                settings name what differs from these.
        """
        name, step_size = self.objective_for(model), self.step_size_for(threat.eps)
        objective, more = released.objective(name, model)
        alpha = f" with alpha {released.alpha:g}" if name == "published_magnet" else ""
        numbers: dict[str, Any] = {"steps": self.steps, "step_size": step_size, "restarts": self.restarts}
        run = bound(pgd_outcome, threat, objective=objective, keep=self.keep, **numbers)
        rule = "max_loss_restart" if self.keep == "max_loss_restart" else "any_iterate"
        settings = {**numbers, "objective": name, "success_rule": rule, **more}
        return Attack(self.name, self.description + alpha, tuple(settings.items()), threat, run)


PUBLISHED_20 = PgdPreset(
    name="pgd_published",
    description="PGD-20 of ClusTR Table 1: 10 restarts, step 2/255, exponentiated scores as logits on cluster heads, "
    "verdict from the restart of highest loss alone",
    steps=20,
    restarts=10,
    step_size=2 / 255,
    objective="cross_entropy",
    cluster_objective="published_cross_entropy",
    keep="max_loss_restart",
)
PUBLISHED_100 = replace(
    PUBLISHED_20,
    name="pgd_published_100",
    description=PUBLISHED_20.description.replace("PGD-20", "PGD-100"),
    steps=100,
)
ONE_CHANGE = "with one change, log-space logits instead of exponentiated scores"
PUBLISHED_20_LOG = replace(
    PUBLISHED_20,
    name="pgd_published_log",
    description=f"the published PGD-20 {ONE_CHANGE}: what the exponential alone hides",
    cluster_objective="cross_entropy",
)
PUBLISHED_100_LOG = replace(
    PUBLISHED_100,
    name="pgd_published_100_log",
    description=f"the published PGD-100 {ONE_CHANGE}",
    cluster_objective="cross_entropy",
)
PUBLISHED_100_MAGNET = replace(
    PUBLISHED_100,
    name="pgd_published_100_magnet",
    description="the adaptive attack of ClusTR (Sec. 4): the published PGD-100, 10 restarts, on the released code's "
    "Magnet loss",
    cluster_objective="published_magnet",
)
EVERY_ITERATE = "5 restarts, step eps/8; any misclassified iterate of any restart counts"
LOG_20 = PgdPreset(
    "pgd_ce",
    f"PGD-20 on the log-space logits, cross-entropy, {EVERY_ITERATE}",
    steps=20,
    restarts=5,
    objective="cross_entropy",
)
MARGIN_20 = PgdPreset(
    "pgd_cw", f"PGD-20 on the margin of the log-space logits, {EVERY_ITERATE}", steps=20, restarts=5, objective="margin"
)
_published = (PUBLISHED_20, PUBLISHED_20_LOG, PUBLISHED_100, PUBLISHED_100_LOG, PUBLISHED_100_MAGNET)
PRESETS: dict[str, PgdPreset] = {preset.name: preset for preset in (*_published, LOG_20, MARGIN_20)}

for _preset in PRESETS.values():
    ATTACKS.add(_preset.name, NamedAttack(_preset.name, _preset.description, _preset.bind, {}, _preset.bind))


@register_binder("pgd", "projected gradient descent from random starts (Madry et al. 2018)")
def _pgd(
    target: AttackedModel,
    threat: Threat,
    *,
    steps: int = 40,
    step_size: float | None = None,
    restarts: int = 1,
    objective: str = "cross_entropy",
    keep: Literal["best", "max_loss_restart"] = "best",
) -> Attack:
    """PGD with any numbers; a step is 2.5 eps / steps unless it is given."""
    check_counts(steps=steps, restarts=restarts)
    objective = known_objective(objective)
    counts = "the restart of highest loss" if keep == "max_loss_restart" else "any misclassified iterate"
    words = f"PGD-{steps}, {restarts} restart{'s' * (restarts > 1)}, on {objective}; {counts} counts"
    preset = PgdPreset("pgd", words, steps, restarts, objective, step_size=step_size, keep=keep)
    return preset.bound(target.model, threat, target.released)


for _name, _today in {"pgd_log": "pgd_ce", "pgd_log_margin": "pgd_cw"}.items():
    ATTACKS.alias(_name, _today, earlier=True)
