"""Screening: a fast estimate of robust accuracy under AutoAttack, for sweeps; never a measurement of it."""

from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from corral.attacks.attack import Attack
from corral.attacks.attacked_model import AttackedModel
from corral.attacks.engine import run_attacks
from corral.attacks.outcome import Outcome
from corral.attacks.registry import ATTACKS, register_binder
from corral.attacks.threat import Threat

NAME = "screening"
# Chosen by `experiments/screening.py` among mixes of a tenth of AutoAttack's backward passes.
STEPS, TARGETED_STEPS, TARGETS = 20, 40, 4
WORDS = (
    "a screening figure, an estimate of the robust accuracy under AutoAttack and not a measurement of it, at a tenth "
    "of its backward passes: Auto-PGD on the cross-entropy, {steps} steps, then on the targeted difference of logits "
    "ratio, {targeted_steps} steps toward each of {targets} rivals"
)


@register_binder(NAME, "Auto-PGD of few steps and rivals: a fast estimate of AutoAttack, never a measurement of it")
def screening(target: AttackedModel, threat: Threat) -> Attack:
    """APGD-CE and then APGD-T on what it leaves, as one attack: a screening figure is one number."""
    targets = min(TARGETS, target.classes - 1)
    members = (
        ATTACKS["apgd-ce"].bind(threat, target, steps=STEPS),
        ATTACKS["apgd-t"].bind(threat, target, steps=TARGETED_STEPS, targets=targets),
    )
    numbers = {"steps": STEPS, "targeted_steps": TARGETED_STEPS, "targets": targets}
    settings = tuple(sorted({**numbers, "restarts": 1}.items()))
    return Attack(NAME, WORDS.format(**numbers), settings, threat, partial(_in_turn, members), objective="boundary")


def _in_turn(members: tuple[Attack, ...], model: nn.Module, x: Tensor, y: Tensor, *, seed: int) -> Outcome:
    found = run_attacks(model, x, y, members, seed=seed)
    later = found.by.clamp_min(0) * (STEPS + 1)
    return replace(found.outcome, step=found.outcome.step + later)
