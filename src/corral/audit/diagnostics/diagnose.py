"""All checks on one model, in order of cost, within a deadline."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from corral.attacks.balls import NORMS, Norm
from corral.attacks.checks import take_batch
from corral.audit.diagnostics import gradients, monotonicity, outputs, stronger
from corral.audit.diagnostics.findings import Diagnosis, Finding, Reading
from corral.audit.diagnostics.subject import RESTARTS, STEPS, DiagnosedModel
from corral.errors import CorralError
from corral.models.contract import ModelError
from corral.progress import Progress, duration


@dataclass(frozen=True)
class Check:
    """A check: its name, its title, what it does, and at most how many forward and backward passes an image it takes.

    `attacks` marks checks that need images which the model classifies right.
    """

    name: str
    title: str
    read: Callable[[DiagnosedModel], Reading]
    passes: int
    attacks: bool = True


WHITE = STEPS * RESTARTS
DIRECTIONS, EPS = gradients.STEPS + gradients.RANDOM, len(monotonicity.EPS_FACTORS) * monotonicity.EPS_STEPS
STARTS = sum(monotonicity.RESTARTS) * monotonicity.RESTART_STEPS
CHECKS = (
    Check("train_mode", "Layers left in train mode", outputs.train_mode_layers, 0, attacks=False),
    Check("randomness", "Identical passes, identical answers", outputs.randomness, 3, attacks=False),
    Check("bounded_outputs", "Outputs that serve as logits", outputs.bounded_outputs, 4, attacks=False),
    Check("zero_gradients", "Input gradients that are exactly zero", gradients.zero_gradients, 2),
    Check("gradient_underflow", "Cross-entropy gradients that underflow", gradients.gradient_underflow, 4),
    Check("random_directions", "Gradient steps against random directions", gradients.random_directions, DIRECTIONS),
    Check("one_step", "One step against many", stronger.one_step, WHITE + 1),
    Check("unbounded", "Accuracy when any change is allowed", monotonicity.unbounded, monotonicity.UNBOUNDED_STEPS),
    Check("other_objective", "The outputs read otherwise", stronger.other_objective, 3 * WHITE),
    Check("black_box", "Attack without gradients against white-box", stronger.black_box, stronger.QUERIES // 2),
    Check("eps", "Robust accuracy against eps", monotonicity.against_eps, EPS),
    Check("steps", "Robust accuracy against steps", monotonicity.against_steps, sum(monotonicity.STEPS)),
    Check("restarts", "Robust accuracy against restarts", monotonicity.against_restarts, STARTS),
)
MISFIT = "Check that images, labels and classes are the model's own: value range, normalisation, order of the classes."


def diagnose(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: Norm = "Linf",
    seed: int = 0,
    deadline: float | None = None,
    progress: bool = True,
) -> Diagnosis:
    """Look for masked gradients: reasons why a gradient attack's robust accuracy of this model is too high.

    After Athalye et al. 2018 ("Obfuscated gradients give a false sense of security", section 3.1), Carlini et al. 2019
    ("On evaluating adversarial robustness") and Croce & Hein 2020; thresholds are those of docs/diagnostics.md.

    Args:
        model: any module from float images in [0, 1] to (N, C) logits; measured in eval mode, its mode, gradients and
            the global random state are restored.
        x: (N, C, H, W) images in [0, 1], or (N, ...); 100 to 200 are enough for every check.
        y: (N,) int64 labels.
        eps: radius of the threat in pixel units, above 0.
        norm: "Linf" or "L2".
        seed: of every random choice.
        deadline: a value of `time.monotonic()`; a check that would not be done by then, as far as the seconds of a
            pass tell, is not begun, and its finding is "skipped".
        progress: show progress on stderr.

    Returns:
        One finding a check, in the order of `CHECKS`.

    Raises:
        ValueError: impossible arguments, no images, labels outside the classes, images outside [0, 1].
        CorralError: the model's outputs on these images are not finite.
    """
    x, y, eps = take_batch(x, y, eps, norm, norms=NORMS)
    if not len(x) or eps == 0:
        raise ValueError(f"a diagnosis needs images and eps > 0, found {len(x)} images and eps {eps:g}")
    devices = [x.device] if x.device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=devices),
        Progress("diagnostics", len(CHECKS), "checks", enabled=progress) as bar,
    ):
        torch.manual_seed(seed % 2**63)
        subject = DiagnosedModel(model, x, y, eps=eps, norm=norm, seed=seed)
        findings = []
        for check in CHECKS:
            findings.append(_run(check, subject, deadline))
            bar.advance(1, check.title)
    return Diagnosis(findings=tuple(findings))


def _run(check: Check, subject: DiagnosedModel, deadline: float | None) -> Finding:
    begun = time.monotonic()
    reading = _skipped(check, subject, deadline)
    if reading is None:
        try:
            reading = check.read(subject)
        except ModelError:
            raise  # it fails, which says nothing about gradients
        except CorralError as error:
            # The outputs were finite on the images themselves: these come from other points.
            why = f"The check broke off: {error}. What an attack would have found that cannot go on is not known."
            remedy = "Make outputs and gradients finite on the whole of [0, 1], then diagnose again."
            reading = Reading(value=None, verdict="masked", explanation=why, remedy=remedy, n=subject.n)
    return Finding(**reading.model_dump(), name=check.name, title=check.title, seconds=time.monotonic() - begun)


def _skipped(check: Check, subject: DiagnosedModel, deadline: float | None) -> Reading | None:
    """Why a check is not begun, None if it is."""
    left = math.inf if deadline is None else deadline - time.monotonic()
    needed = check.passes * subject.robust * subject.seconds_a_pass
    remedy = "Allow more time, or fewer images."
    if check.attacks and subject.n == 0:
        why = f"the model classifies none of the {len(subject.every_y)} images right"
        remedy = MISFIT
    elif left <= 0:
        why = "the time was up"
    elif needed > left:
        why = f"it may take {duration(needed)}, and {duration(left)} are left"
    else:
        return None
    return Reading(value=None, verdict="skipped", explanation=f"Not measured: {why}.", remedy=remedy, n=0)
