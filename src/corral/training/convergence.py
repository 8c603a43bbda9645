"""When training has converged: a rule on the validation accuracies of its epochs."""

from collections.abc import Sequence

from corral.strict import Frozen
from corral.training.recipes.recipe import Convergence, TrainingConfig

# Accuracies are counts over images: a gain of exactly the tolerance is not more than it, whatever float64 makes of it.
ROUNDING = 1e-9


class Ending(Frozen):
    """How a run with a `training.converged` ended.

    Attributes:
        converged: whether the criterion was met; if not, the epochs were used up.
        epochs: of the method, the warm start's not among them.
        warm_epochs: of the warm start.
    """

    converged: bool
    epochs: int
    warm_epochs: int = 0

    def words(self) -> str:
        """The ending as it stands in a line."""
        return f"converged after {self.epochs} epochs" if self.converged else f"not converged in {self.epochs} epochs"


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


def settled(training: TrainingConfig) -> int:
    """Epochs of the method after which its learning rate stays: the last milestone, or the end of the warm-up."""
    return max(training.milestones, default=0) if training.schedule == "steps" else training.warm_up or 0
