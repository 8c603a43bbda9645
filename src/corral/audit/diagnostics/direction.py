"""Whether following the gradient beats walking blindly: the loss at the attack's end against random directions."""

import torch
from torch import Tensor

from corral.attacks.balls import Norm, l2_norms, per_example, project
from corral.attacks.objectives import margin
from corral.audit.diagnostics.findings import Reading, Verdict, percent
from corral.audit.diagnostics.subject import DiagnosedModel

RANDOM, STEPS = 20, 20
# In tens of dimensions and more the best of 20 random points on the ball's surface is far below what 20 gradient steps
# reach: sound models measure 0 to 2%. A slope without use loses to the best of 20 almost always.
SOME, MANY = 0.05, 0.15


def random_directions(subject: DiagnosedModel) -> Reading:
    """The share of images on which the best of 20 random points is as bad for the model as the end of PGD.

    Both are judged by the margin of the outputs: unlike the cross-entropy it does not saturate.
    """
    end = subject.climbed(eps=subject.eps, steps=STEPS, keep="last")
    climbed = _margins(subject, end)
    generator = subject.generator()
    best = torch.full_like(climbed, -torch.inf)
    for _ in range(RANDOM):
        best = torch.maximum(best, _margins(subject, _on_surface(subject.x, subject.eps, subject.norm, generator)))
    share = float((best >= climbed).double().mean())
    verdict: Verdict = "masked" if share >= MANY else "note" if share >= SOME else "ok"
    explanation = (
        f"On {percent(share)} of the images the best of {RANDOM} random directions of length eps is as bad for the "
        f"model as the end of {STEPS} gradient steps"
    )
    if verdict == "ok":
        return Reading(
            value=share,
            verdict=verdict,
            explanation=f"{explanation}: the gradient leads where it should.",
            n=subject.n,
        )
    return Reading(
        value=share,
        verdict=verdict,
        explanation=f"{explanation}, where the gradient should win nearly always: it carries little information.",
        remedy="Look at the findings on zero gradients and on the outputs; attack the margin, or without gradients.",
        n=subject.n,
    )


def _margins(subject: DiagnosedModel, x: Tensor) -> Tensor:
    return margin(subject.forward(x).double(), subject.y)


def _on_surface(x: Tensor, eps: float, norm: Norm, generator: torch.Generator) -> Tensor:
    """Random corners of the Linf ball, or points of the L2 sphere, clipped to [0, 1]."""
    direction = torch.randn(x.shape, generator=generator).to(x)
    if norm == "Linf":
        return (x + eps * direction.sign()).clamp(0, 1)
    lengths = l2_norms(direction).clamp_min(torch.finfo(x.dtype).tiny)
    return project(x + direction * per_example(eps / lengths, x), x, eps, norm)
