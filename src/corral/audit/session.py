"""A model with its images, prepared, timed, classified without attack, and diagnosed."""

from functools import partial

import torch
from torch import Tensor

from corral.attacks.balls import Norm
from corral.attacks.budget import Budget, BudgetEndedError, measure
from corral.audit.data import AuditImages
from corral.audit.diagnostics import diagnose
from corral.audit.diagnostics.diagnose import CHECKS
from corral.audit.diagnostics.findings import Finding, percent
from corral.audit.inputs import judge, reordered_accuracy, trials
from corral.targets.outputs import are_probabilities, check_outputs, measuring, outputs
from corral.targets.prepare import Preparation, prepared
from corral.targets.target import Target

# Shares of the budget. Diagnostics are asked to end after theirs, and cut off if they overrun it by a tenth.
DIAGNOSTICS, OVERRUN, CLEAN, TRYING = 0.3, 0.1, 0.15, 0.05
# Trying the ways to feed a model takes about this many forward passes over so many images.
WAYS, FEWEST_TRIED, MOST_TRIED = 15, 32, 500
FIRST, TIMED = 8, 64
# Enough images for every check; fewer on a slow model, so that more checks are made at all.
FEWEST_DIAGNOSED, DIAGNOSED = 40, 200


class AuditSession:
    """A model and its images; arguments as `audit`, each step taking its share of the budget.

    Attributes:
        model: behind its preparation, giving logits.
        classes: how many logits there are.
        labels: (N,) all labels in the model's numbering.
        right: (n,) bool, which of the first n images are classified right; n is N unless the budget is too short.
        inputs: what the checks of outputs and inputs found.
        pace: how long forward and backward passes take.

    Raises:
        CorralError: a model that cannot be audited, or is not fed what it was trained on.
    """

    def __init__(
        self,
        target: Target,
        given: AuditImages,
        preparation: Preparation,
        *,
        as_is: bool,
        budget: Budget,
        batch_size: int,
    ) -> None:
        self.target, self.given, self.preparation, self.budget = target, given, preparation, budget
        self.labels = given.labels + preparation.offset
        device = self.labels.device
        self.model = prepared(target.model, preparation, device)
        with measuring(self.model, device):
            self.classes = check_outputs(target.name, self.model, self._x(FIRST), self.labels).shape[1]
            self.pace = measure(self.model, self._x(TIMED))
            each = self.pace.forward_seconds(TIMED) / TIMED
            tried = round(TRYING * budget.seconds / (WAYS * each))
            x = self._x(min(MOST_TRIED, max(FEWEST_TRIED, tried)))
            found = outputs(self.model, x)
        self.inputs = self._outputs_findings(found)
        if are_probabilities(found):
            self.model = prepared(target.model, preparation, device, log=True)
        with measuring(target.model, device):
            self.inputs.append(self._fed(x, found, as_is))
        with measuring(self.model, device):
            self.right = self._classified(min(batch_size, max(1, int(CLEAN * budget.seconds / (8 * each)))))

    @property
    def clean(self) -> float:
        """Accuracy without attack."""
        return int(self.right.sum()) / len(self.right)

    def diagnose(self, norm: Norm, eps: float, seed: int, progress: bool) -> tuple[list[Finding], float]:
        """The diagnostics' findings, and the seconds that they took."""
        start, clock = self.budget.spent, self.budget.clock
        soft = min(clock() + DIAGNOSTICS * self.budget.seconds, self.budget.end)
        hard = min(soft + OVERRUN * self.budget.seconds, self.budget.end)
        each = self.pace.gradient_seconds(TIMED) / TIMED
        count = int(DIAGNOSTICS * self.budget.seconds / (each * sum(check.passes for check in CHECKS)))
        x = self._x(min(max(count, FEWEST_DIAGNOSED), DIAGNOSED, len(self.right)))
        y = self.labels[: len(x)]
        if norm == "L1":
            # The diagnostics know Linf and L2: the largest L2 ball inside the L1 ball is diagnosed.
            norm, eps = "L2", eps / x[0].numel() ** 0.5
        try:
            with self.budget.enforced(self.model, hard):
                found = diagnose(self.model, x, y, eps=eps, norm=norm, seed=seed, deadline=soft, progress=progress)
        except BudgetEndedError:
            seconds = self.budget.spent - start
            cut_off = Finding(
                name="diagnostics",
                title="Diagnostics",
                value=None,
                verdict="skipped",
                explanation="The diagnostics were cut off: the model is too slow for their share of the budget.",
                remedy="Give more --minutes, or fewer images with --n.",
                n=0,
                seconds=seconds,
            )
            return [cut_off], seconds
        return list(found.findings), self.budget.spent - start

    def _classified(self, batch_size: int) -> Tensor:
        """Which images are classified right without attack: all, or as many as this step's share of time allows."""
        end, found, count = self.budget.clock() + CLEAN * self.budget.seconds, [], 0
        while count < len(self.labels) and (count == 0 or self.budget.clock() < end):
            indices = torch.arange(count, min(count + batch_size, len(self.labels)), device=self.labels.device)
            found.append(outputs(self.model, self.given.images.float(indices)).argmax(1) == self.labels[indices])
            count += len(indices)
        return torch.cat(found)

    def _x(self, count: int) -> Tensor:
        """The first `count` images."""
        return self.given.images.float(torch.arange(min(count, len(self.labels)), device=self.labels.device))

    def _fed(self, x: Tensor, found: Tensor, as_is: bool) -> Finding:
        start, y = self.budget.spent, self.given.labels[: len(x)]
        channels = x.transpose(0, 1).flatten(1).double()
        mean, std = channels.mean(1), channels.std(1).clamp_min(1e-6)
        tried = trials(self.target.model, self.preparation, x, y, (tuple(mean.tolist()), tuple(std.tolist())))
        reordered = reordered_accuracy(found.argmax(1), self.labels[: len(x)])
        return judge(self.target.name, tried, y, reordered, as_is=as_is, seconds=self.budget.spent - start)

    def _outputs_findings(self, found: Tensor) -> list[Finding]:
        """What to say of (n, C) outputs: of more or fewer classes than the data's, or probabilities."""
        findings, classes, named = [], found.shape[1], len(self.given.data.classes)
        note = partial(Finding, verdict="note", n=len(found), seconds=0.0)
        if classes != named:
            spare = int((found.argmax(1) >= named).sum())
            why = (
                f"The model has {classes} classes, the data {named}; it predicts a class without label for {spare} of "
                f"{len(found)} images. An attack may push images into any of its classes."
            )
            remedy = "Fine for a model with spare classes; otherwise give the data that it was trained for."
            title = "Number of classes"
            findings.append(note(name="classes", title=title, value=float(classes), explanation=why, remedy=remedy))
        if are_probabilities(found):
            share = float((found.amax(1) == 1).double().mean())
            why = (
                "Every row of outputs lies in [0, 1] and sums to 1: the model ends in a softmax. The logarithm of the "
                "outputs is diagnosed and attacked in their place, as logits. For "
                f"{percent(share)} of the clean images a probability rounds to exactly 1."
            )
            remedy = "Return the logits, before the softmax: nothing is lost to rounding then."
            title = "Probabilities instead of logits"
            findings.append(note(name="probabilities", title=title, value=share, explanation=why, remedy=remedy))
        return findings
