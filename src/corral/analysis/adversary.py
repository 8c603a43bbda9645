"""What the adversary of QTRADES is in training: its distance in loss from random noise."""

import torch
from torch import Tensor

from corral.analysis.document import Found
from corral.analysis.gradient_norms import sign_agreement
from corral.analysis.registry import register_analysis
from corral.analysis.subject import AnalysedModel, labelled
from corral.attacks.balls import ascend, project, start_in_ball
from corral.attacks.noise import image_keys, signs
from corral.attacks.objectives import published_nearest
from corral.attacks.state import attacked
from corral.data import stratified_subset
from corral.losses import kl, score_cross_entropy
from corral.models import Head, PublishedHead

# QTRADES' own single step, and the search that shows how far the ball lets the answers drift.
STEP_RATIO, STRONG_STEPS = 1.25, 20
# The second draw of each image's random numbers: the first gave its noise.
DIRECTION_DRAW = 2


@register_analysis(
    "adversary",
    short="The adversary in training",
    title="What QTRADES' adversary is in training",
    text="On training images: one step of 1.25 eps from uniform noise, up the released code's consistency term "
    "(exponentiated scores) or up the same in log space; both measured by KL(p(x) ‖ p(x′)) in log space, so that "
    "noise and a step along random signs can stand beside them. “Way gone” is the share of the way from noise to "
    "20 log-space steps.",
    columns=(
        ("noise", "kl noise", 1.0, 3),
        ("random step", "kl random step", 1.0, 3),
        ("released step", "kl released", 1.0, 3),
        ("log-space step", "kl log", 1.0, 3),
        ("20 log-space steps", "kl strong", 1.0, 3),
        ("way gone, released, %", "share released", 100.0, 0),
        ("way gone, log space, %", "share log", 100.0, 0),
        ("gradient exactly 0, released, %", "zero released", 100.0, 1),
        ("pixels of one sign, %", "alike", 100.0, 1),
        ("right after noise, %", "right noise", 100.0, 1),
        ("after released step, %", "right released", 100.0, 1),
        ("after log-space step, %", "right log", 100.0, 1),
        ("after 20 steps, %", "right strong", 100.0, 1),
    ),
    unit="mean KL in nats, or percent as the column says; mean ± sd over seeds",
    needs_clusters=True,
    images="train",
    attacks=("PGD",),
)
def training_adversary(subject: AnalysedModel) -> Found:
    """One step of QTRADES from random noise, by exponentiated and by log-space scores, on training images.

    The yardstick is KL(p(x) || p(x')) of the log-space probabilities, whatever the adversary climbs. Numbers: `kl ...`,
    its mean for x' = "noise" (uniform in the ball), "random step" (noise, then a step along random signs), "released"
    (a step on the released code's consistency), "log" (a step on the KL itself) and "strong" (20 steps on the KL);
    `share ...`, how far of the way from noise to strong each gets; `zero ...`, the share of images whose gradient at
    the noise is exactly 0; `alike`, the share of pixels in which both gradients have one sign; `right ...`, accuracy.
    """
    clusters, eps, norm = subject.clusters, subject.threat.eps, subject.threat.norm
    # As many class-balanced training images as there are test images to measure on.
    count = min(len(subject.test), len(subject.train))
    whole = count == len(subject.train)
    x, y = labelled(subject.train if whole else stratified_subset(subject.train, count, seed=0))
    model, head = subject.model, subject.model.head
    published = PublishedHead(head, nearest=published_nearest(clusters))
    with attacked(model):
        with torch.no_grad():
            features = model.features(x)
            clean, clean_scores = head(features), published(features)
        keys = image_keys(x, subject.seed)
        noise = start_in_ball(x, eps, norm, keys, 0)

        def gradient(at: Tensor, scores: Head) -> Tensor:
            at = at.detach().requires_grad_(True)
            outputs = scores(model.features(at))
            value = kl(clean, outputs) if scores is head else score_cross_entropy(clean_scores, outputs)
            return torch.autograd.grad(value.sum(), at)[0]

        def moved(at: Tensor, direction: Tensor, size: float) -> Tensor:
            return project(ascend(at, direction, size, norm), x, eps, norm)

        found = {name: gradient(noise, scores) for name, scores in (("released", published), ("log", head))}
        points = {
            "noise": noise,
            "random step": moved(noise, signs(keys, DIRECTION_DRAW, x.shape[1:]), STEP_RATIO * eps),
        }
        points |= {name: moved(noise, direction, STEP_RATIO * eps) for name, direction in found.items()}
        strong = noise
        for _ in range(STRONG_STEPS):
            strong = moved(strong, gradient(strong, head), 2.5 * eps / STRONG_STEPS)
        points["strong"] = strong
        numbers: dict[str, float] = {}
        with torch.no_grad():
            numbers["right clean"] = float((clean.argmax(1) == y).double().mean())
            for name, point in points.items():
                outputs = model(point)
                numbers[f"kl {name}"] = float(kl(clean, outputs).double().mean())
                numbers[f"right {name}"] = float((outputs.argmax(1) == y).double().mean())
    span = numbers["kl strong"] - numbers["kl noise"]
    for name in ("random step", "released", "log"):
        numbers[f"share {name}"] = (numbers[f"kl {name}"] - numbers["kl noise"]) / span if span > 0 else 0.0
    for name, direction in found.items():
        numbers[f"zero {name}"] = float((direction.flatten(1) == 0).all(1).double().mean())
    numbers["alike"] = sign_agreement(found["log"], found["released"])
    return Found(numbers)
