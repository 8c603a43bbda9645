"""Gradients at each iterate of an attack: exponentiated scores against log-space scores."""

import torch
from torch import Tensor

from corral.analysis.document import NONE_RIGHT, Found
from corral.analysis.registry import CurvePoint, register_analysis
from corral.analysis.subject import AnalysedModel, labelled
from corral.attacks import PUBLISHED_20
from corral.attacks.balls import ascend, l2_norms, project, start_in_ball
from corral.attacks.noise import image_keys
from corral.attacks.objectives import ObjectiveName, prepare, value_and_gradient
from corral.attacks.state import attacked
from corral.geometry import squared_distances

SCORES: dict[str, ObjectiveName] = {"exponentiated": "published_cross_entropy", "log": "cross_entropy"}
# What a page shows.
SHOWN = ("own", "rival", *(f"kept {score}" for score in SCORES))


# The ends of the curves, as a table shows them.
ENDS = [
    CurvePoint(f"{title}, {score}, {when}", f"{kind} {score}", place, form)
    for kind, title, form in (("zero", "gradient 0", ".1%"), ("norm", "gradient norm", ".1e"))
    for score in SCORES
    for place, when in ((0, "start"), (-1, "end"))
]
ENDS += [
    CurvePoint(f"pixels of one sign, {when}", "alike exponentiated", place, ".1%")
    for place, when in ((0, "start"), (-1, "end"))
]


@register_analysis(
    "gradient_norms",
    earlier=("along",),
    title="The gradient along the attack",
    text="The published PGD-20, one restart, from the same random starts by either kind of score, on the test "
    "images that are classified right. Float32 has exp(-x) = 0 from x = 104 on; long before that a rival's score "
    "vanishes beside the own one, and the gradient no longer says where the rival is: “pixels of one sign” is how "
    "far the two gradients agree at the exponentiated attack's own points (50% is chance).",
    columns=(
        ("d²/2σ² to the own centroid", "own", 1.0, 1),
        ("to the nearest rival", "rival", 1.0, 1),
        ("robust, exponentiated", "kept exponentiated", 100.0, 1),
        ("robust, log space", "kept log", 100.0, 1),
    ),
    unit="percent of images; d²/2σ² and norms are medians over images; mean, ± sd, over seeds",
    needs_clusters=True,
    attacks=("PGD",),
    curve_points=ENDS,
)
def gradient_norms(subject: AnalysedModel) -> Found:
    """The published PGD-20, one restart, on the test images classified right, by either kind of score.

    Series over the iterates 0 (the random start) to 20, for "exponentiated" and "log": `zero ...`, the share of images
    whose gradient is exactly 0 in every pixel; `norm ...`, the median L2 norm of the gradient; `broken ...`, the share
    misclassified by now; `alike ...`, the share of pixels in which the gradients of both scores have one sign at that
    attack's iterates (0.5 is chance). Numbers: `own` and `rival`, medians of d^2 / 2 sigma^2 to the nearest own and
    rival centroid on the clean images (float32 has exp(-x) = 0 from x = 104 on); `kept ...`, share of all images right
    at the end.
    """
    clusters, eps, norm = subject.clusters, subject.threat.eps, subject.threat.norm
    numbers: dict[str, float] = {}
    series: dict[str, tuple[float, ...]] = {}
    x, y = labelled(subject.test)
    with attacked(subject.model):
        with torch.no_grad():
            right = subject.model(x).argmax(1) == y
            if not bool(right.any()):
                return Found({"accuracy": 0.0}, absent=dict.fromkeys(SHOWN, NONE_RIGHT))
            x, y = x[right], y[right]
            halves = squared_distances(subject.model.features(x), clusters.centroids) / (
                2 * clusters.effective_variance
            )
        own = y.unsqueeze(1) == clusters.classes
        numbers["accuracy"] = float(right.double().mean())
        numbers["own"] = float(halves.masked_fill(~own, torch.inf).amin(1).median())
        numbers["rival"] = float(halves.masked_fill(own, torch.inf).amin(1).median())
        keys, indices = image_keys(x, subject.seed), torch.arange(len(x), device=x.device)
        targets = {name: prepare(objective, subject.model, x, y) for name, objective in SCORES.items()}
        for name in SCORES:
            x_adv = start_in_ball(x, eps, norm, keys, 0)
            broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
            points: list[tuple[float, float, float, float]] = []
            for _ in range(PUBLISHED_20.steps + 1):
                gradients = {}
                for score, target in targets.items():
                    _, logits, gradients[score] = value_and_gradient(target, x_adv, indices)
                broken |= logits.argmax(1) != y
                agreement = sign_agreement(*gradients.values())
                points.append((*_sizes(gradients[name]), float(broken.double().mean()), agreement))
                x_adv = project(ascend(x_adv, gradients[name], PUBLISHED_20.step_size_for(eps), norm), x, eps, norm)
            for place, kind in enumerate(("zero", "norm", "broken", "alike")):
                series[f"{kind} {name}"] = tuple(point[place] for point in points)
            numbers[f"kept {name}"] = numbers["accuracy"] * (1 - points[-1][2])
    return Found(numbers, series)


def sign_agreement(first: Tensor, second: Tensor) -> float:
    """Share of the pixels in which either gradient is not 0 where both have one sign; 0 where neither has any."""
    decided = (first != 0) | (second != 0)
    alike = (first.sign() == second.sign()) & decided
    return float(alike.sum()) / max(int(decided.sum()), 1)


def _sizes(gradient: Tensor) -> tuple[float, float]:
    """Share of exactly zero gradients and the median L2 norm."""
    zero = (gradient.flatten(1) == 0).all(1)
    # In float64: squares of tiny float32 numbers underflow, and a small gradient would pass for none.
    return float(zero.double().mean()), float(l2_norms(gradient.double()).median())
