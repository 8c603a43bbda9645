"""The line that an epoch of training shows."""

from collections.abc import Mapping
from typing import Any

# The measures of held-out images in an epoch's line.
VALIDATED = {"validation_clean": "clean", "validation_pgd": "PGD", "validation_neighbours": "nearest neighbours"}
WATCHED = {"one_step_accuracy": "one-step", "pgd_accuracy": "PGD"}


def epoch_line(epoch: str, numbers: Mapping[str, Any]) -> str:
    """What is told of an epoch, called `epoch`, of the numbers that metrics.jsonl has."""
    shown = [epoch]
    shown += [f"loss {numbers['loss']:.4f}"] if "loss" in numbers else []
    measured = [f"{title} {100 * numbers[name]:.1f}%" for name, title in VALIDATED.items() if name in numbers]
    shown += [f"validation {', '.join(measured)}"] if measured else []
    watched = [f"{title} {100 * numbers[name]:.1f}%" for name, title in WATCHED.items() if name in numbers]
    shown += [", ".join(watched)] if watched else []
    shown += ["catastrophic overfitting"] if numbers.get("collapsed") else []
    return "  ".join([*shown, f"{numbers['epoch_seconds']:.1f} s"])
