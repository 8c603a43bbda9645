"""The published protocol with one thing changed at a time: what each part of it hides."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from corral.analysis.document import Found
from corral.analysis.registry import register_analysis
from corral.analysis.subject import AnalysedModel, labelled
from corral.attacks import PUBLISHED_20, pgd
from corral.attacks.objectives import LogitObjective, ModelObjective, ObjectiveName, ThroughHead, published_nearest
from corral.attacks.pgd import pgd_outcome
from corral.attacks.state import attacked
from corral.models import ClusterHead, Head, PublishedHead

BATCH = 125


@dataclass(frozen=True)
class Change:
    """One attack: the published one but for what is named.

    Attributes:
        objective: what it climbs.
        keep: "max_loss_restart" as published, or "best": any iterate of any restart.
        reach: steps of 2.5 eps / 20 in the place of 2/255, so that every start reaches the whole ball.
    """

    objective: ObjectiveName | LogitObjective | ModelObjective
    keep: Literal["best", "max_loss_restart"] = "max_loss_restart"
    reach: bool = False


def every_cluster(head: Head) -> Head:
    """Exponentiated scores of all clusters."""
    assert head.clusters is not None
    return PublishedHead(head, nearest=len(head.clusters.centroids))


def cut(head: Head) -> Head:
    """Log-space scores of as many nearest clusters as the published scores keep."""
    found = head.clusters
    assert found is not None
    nearest = published_nearest(found)
    return ClusterHead(found.centroids, found.classes, found.effective_variance, rule=nearest)


CHANGES: dict[str, Change] = {
    "published": Change("published_cross_entropy"),
    "every cluster": Change(ThroughHead(every_cluster)),
    "log scores, cut": Change(ThroughHead(cut)),
    "log scores": Change("cross_entropy"),
    "any iterate": Change("published_cross_entropy", keep="best"),
    "whole ball": Change("published_cross_entropy", reach=True),
    "log scores, any iterate": Change("cross_entropy", keep="best"),
    "log scores, any iterate, whole ball": Change("cross_entropy", keep="best", reach=True),
}


LINES = {
    "clean": "no attack",
    "published": "as published: exponentiated scores of the D nearest clusters, success by the restart of highest loss",
    "every cluster": "… scores of every cluster (no D-nearest cut)",
    "log scores, cut": "… log-space scores, of the D nearest clusters",
    "log scores": "… log-space scores, of every cluster",
    "any iterate": "… any iterate of any restart counts",
    "whole ball": "… steps of eps/8, which cross the ball",
    "log scores, any iterate": "log-space scores, and any iterate counts",
    "log scores, any iterate, whole ball": "log-space scores, any iterate, and steps of eps/8",
    "clean, batch statistics": "no attack, the model in train mode (statistics of the test batch)",
    "batch statistics": "… the model in train mode",
}


@register_analysis(
    "protocol_ablation",
    earlier=("changes",),
    title="The published attack with one part changed",
    text="PGD-20, 10 restarts, step 2/255. Each line with “…” changes one thing of the published protocol and "
    "nothing else: the difference from the published one is the effect of that part.",
    columns=tuple((title, number, 100.0, 1) for number, title in LINES.items()),
    unit="robust accuracy in percent of the test images; mean ± sd over seeds",
    needs_clusters=True,
    attacks=("PGD",),
    transposed=True,
)
def protocol_ablation(subject: AnalysedModel) -> Found:
    """Accuracy under the published PGD-20 with 10 restarts, and under it with one part changed.

    Numbers: `clean` and one of `CHANGES` each, fractions of the test images. Where the backbone has batch statistics
    also `clean, batch statistics` and `batch statistics`: clean, and the published attack, both with the model in train
    mode, as where the released code runs train and test images through it.
    """
    numbers: dict[str, float] = {}
    x, y = labelled(subject.test)
    with torch.no_grad():
        numbers["clean"] = float((subject.model(x).argmax(1) == y).double().mean())
    for name, change in CHANGES.items():
        robust = 0
        for indices in torch.split(torch.arange(len(x), device=x.device), BATCH):
            outcome = pgd_outcome(
                subject.model, x[indices], y[indices], **_published(subject, reach=change.reach), seed=subject.seed,
                objective=change.objective, keep=change.keep,
            )  # fmt: skip
            robust += int((~outcome.broken).sum())
        numbers[name] = robust / len(x)
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in subject.model.modules()):
        numbers |= _with_batch_statistics(subject)
    reason = "the backbone has no batch statistics"
    return Found(numbers, absent=dict.fromkeys(("clean, batch statistics", "batch statistics"), reason))


def _published(subject: AnalysedModel, *, reach: bool = False) -> dict[str, Any]:
    """The published attack's numbers; with `reach` its steps are long enough to cross the ball."""
    eps, steps = subject.threat.eps, PUBLISHED_20.steps
    step_size = 2.5 * eps / steps if reach else PUBLISHED_20.step_size_for(eps)
    shared = {"norm": subject.threat.norm, "restarts": PUBLISHED_20.restarts}
    return {"eps": eps, "steps": steps, "step_size": step_size, **shared}


def _with_batch_statistics(subject: AnalysedModel) -> dict[str, float]:
    """Clean accuracy and the published attack in train mode: attack and evaluation see the batch's own statistics."""
    x, y = labelled(subject.test)
    model = subject.model
    generator = torch.Generator(x.device).manual_seed(subject.seed)
    clean = robust = 0
    for indices in torch.split(torch.arange(len(x), device=x.device), BATCH):
        x_adv = pgd(
            model, x[indices], y[indices], **_published(subject), generator=generator, keep="last", mode="train",
            objective=PUBLISHED_20.objective_for(model),
        )  # fmt: skip
        with attacked(model, "train"), torch.no_grad():
            clean += int((model(x[indices]).argmax(1) == y[indices]).sum())
            robust += int((model(x_adv).argmax(1) == y[indices]).sum())
    return {"clean, batch statistics": clean / len(x), "batch statistics": robust / len(x)}
