"""When training ends before its epochs are used up: rules on the accuracies of its epochs, and what is told of it."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from corral.strict import Frozen
from corral.training.recipes.recipe import Convergence, TrainingConfig

# Accuracies are counts over images: a gain of exactly the tolerance is not more than it, whatever float64 makes of it.
ROUNDING = 1e-9


class Ending(Frozen):
    """How a run ended that something else than its number of epochs could end; None is left out of JSON.

    Attributes:
        converged: whether `training.converged` was met; None where the recipe has no such criterion.
        epochs: of the method that were made, the warm start's not among them; the saved weights may be of an earlier
            one.
        warm_epochs: of the warm start.
        stopped: what else ended it: "patience" (`training.patience`), or the "collapse" of the method's model; None
            where it converged, or the epochs were used up.
    """

    converged: bool | None = None
    epochs: int
    warm_epochs: int = 0
    stopped: Literal["patience", "collapse"] | None = None

    def words(self) -> str:
        """The ending as it stands in a line."""
        if self.stopped == "collapse":
            return f"stopped by catastrophic overfitting in epoch {self.epochs}: the weights before it are saved"
        if self.stopped == "patience":
            return f"stopped after {self.epochs} epochs: held-out PGD accuracy rose no more"
        if self.converged is None:
            return "not stopped early"
        return f"converged after {self.epochs} epochs" if self.converged else f"not converged in {self.epochs} epochs"

    @model_serializer(mode="wrap")
    def _said(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what does not apply, so that what earlier versions wrote stays as it was."""
        return {name: value for name, value in handler(self).items() if value is not None}


def converged(accuracies: Sequence[float], rule: Convergence, *, settled: int = 0) -> bool:
    """Whether training has converged by the last of these accuracies.

    With a_1 ... a_t the clean validation accuracies after the epochs of the method (those of a warm start are not among
    them) and p = `rule.epochs`, it has if t - p >= max(1, settled) and

        max(a_{t-p+1}, ..., a_t) <= max(a_1, ..., a_{t-p}) + rule.tolerance.

    Args:
        accuracies: a_1 ... a_t in [0, 1].
        rule: tolerance and number of epochs.
        settled: epochs after which the learning rate no longer changes; the last p must all come later.
    """
    before = len(accuracies) - rule.epochs
    if before < max(1, settled):
        return False
    return max(accuracies[before:]) <= max(accuracies[:before]) + rule.tolerance + ROUNDING


def since_best(accuracies: Sequence[float], *, settled: int = 0) -> int:
    """Epochs since the best of these accuracies, the first of equal ones; those up to epoch `settled` do not count.

    Args:
        accuracies: under PGD on held-out images, after each epoch of the method.
        settled: epochs after which the learning rate no longer changes in steps: a fall of it often brings a new best.
    """
    best = max(range(len(accuracies)), key=accuracies.__getitem__, default=-1)
    return max(len(accuracies) - max(best + 1, settled), 0)


def settled(training: TrainingConfig) -> int:
    """Epochs of the method after which its learning rate stays: the last milestone, or the end of the warm-up."""
    return max(training.milestones, default=0) if training.schedule == "steps" else training.warm_up or 0
