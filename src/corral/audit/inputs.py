"""Is the model fed as it was trained? Likely mistakes are tried on the images, and the clean accuracies compared."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from corral.audit.diagnostics.findings import Finding, Verdict, percent
from corral.errors import CorralError
from corral.models.contract import ModelError
from corral.models.statistics import STATISTICS, Statistics
from corral.targets.outputs import outputs
from corral.targets.prepare import Preparation, prepared

# A variant is worth a word if it gains this much and 3 standard errors, and stops the audit if it gains this much.
WORTH_NOTING, WRONGLY_FED = 0.02, 0.1
NEAR_CHANCE = 0.05
STANDARD_ERRORS = 3.0


@dataclass(frozen=True)
class Trial:
    """One way to feed the model, and the clean accuracy that it gives."""

    words: str
    preparation: Preparation
    accuracy: float
    correct: Tensor


def trials(model: nn.Module, given: Preparation, x: Tensor, y: Tensor, statistics: Statistics) -> list[Trial]:
    """Clean accuracy as the bare model is fed, inside `measuring`, and under each likely mistake; the first as given.

    x are (n, C, H, W) images in [0, 1], y (n,) the data's labels, `statistics` the data's own mean and deviation.
    """
    fed = [("as given", given), *_ranges(given, x.shape[1], statistics)]
    tried = [trial for words, preparation in fed for trial in _trials(model, words, preparation, x, y)]
    if x.shape[1] == 3:
        best = max(tried, key=lambda trial: trial.accuracy)
        words = "BGR channels" if best.words == "as given" else f"{best.words}, BGR channels"
        tried += _trials(model, words, replace(best.preparation, bgr=not best.preparation.bgr), x, y)
    return tried


def _ranges(given: Preparation, channels: int, statistics: Statistics) -> Iterator[tuple[str, Preparation]]:
    bare = replace(given, scale=1.0, mean=None, std=None)
    if bare != given:
        yield "inputs in [0, 1]", bare
    yield "inputs in [0, 255]", replace(bare, scale=255.0)
    for name, (mean, std) in STATISTICS.items():
        if len(mean) in (1, channels):
            words = "inputs in [-1, 1]" if name == "half" else f"inputs normalised as for {name}"
            yield words, replace(bare, mean=mean, std=std)
    mean, std = statistics
    yield "inputs normalised by the data's own mean and deviation", replace(bare, mean=mean, std=std)


def _trials(model: nn.Module, words: str, preparation: Preparation, x: Tensor, y: Tensor) -> Iterator[Trial]:
    """One way to feed the model, with the labels as they are and shifted by one; nothing where the model fails."""
    try:
        found = outputs(prepared(model, preparation, x.device), x)
    except ModelError:  # what it refuses is not what it was trained on
        return
    if not bool(torch.isfinite(found).all()):
        return
    predicted = found.argmax(1)
    for shift in (0, 1, -1):
        correct = predicted == y + preparation.offset + shift
        name = words if shift == 0 else f"{words}, labels shifted by {shift:+d}"
        shifted = replace(preparation, offset=preparation.offset + shift)
        yield Trial(name.removeprefix("as given, "), shifted, float(correct.float().mean()), correct)


def reordered_accuracy(predicted: Tensor, y: Tensor) -> float:
    """Accuracy if the classes may be renamed: the best assignment on one half of the images, scored on the other."""
    from scipy.optimize import linear_sum_assignment  # late: importing it takes 0.3 s

    # The images come in an order that is regular in the classes: the halves are drawn.
    order = np.random.default_rng(0).permutation(len(y))
    guess, truth = predicted.cpu().numpy()[order], y.cpu().numpy()[order]
    size, middle = int(max(guess.max(), truth.max())) + 1, len(y) // 2
    hits = 0
    for fit, score in ((slice(middle), slice(middle, None)), (slice(middle, None), slice(middle))):
        confusion = np.zeros((size, size), np.int64)
        np.add.at(confusion, (guess[fit], truth[fit]), 1)
        rows, columns = linear_sum_assignment(-confusion)
        renamed = np.empty(size, np.int64)
        renamed[rows] = columns
        hits += int((renamed[guess[score]] == truth[score]).sum())
    return hits / len(y)


def judge(name: str, tried: list[Trial], y: Tensor, reordered: float, *, as_is: bool, seconds: float) -> Finding:
    """What the `trials` and the model's `reordered_accuracy` say: nothing, a note, or that the model is fed wrongly.

    With `as_is` the last becomes a note.

    Raises:
        CorralError: another way to feed the model is far better; the line says which and which option does it.
    """
    given, n = tried[0], len(y)
    best = _simplest_best(tried)
    chance, gain = float(torch.bincount(y).max()) / n, best.accuracy - given.accuracy
    leading = sorted(tried[1:], key=lambda trial: -trial.accuracy)[:4]
    others = "; ".join(f"{trial.words} {percent(trial.accuracy)}" for trial in leading)
    why = f"clean accuracy is {percent(given.accuracy)}"
    verdict: Verdict = "note"
    if reordered > best.accuracy + max(WRONGLY_FED, STANDARD_ERRORS / n**0.5):
        why += f", but {percent(reordered)} if the classes are renamed: the model numbers its classes in another order "
        why += "than the data"
        if not as_is:
            raise CorralError(f"{name}: {why}; reorder its outputs or the labels, or give --as-is")
        remedy = "Reorder the outputs or the labels."
    elif gain > max(WORTH_NOTING, STANDARD_ERRORS * _error(best, given)):
        option = " ".join(best.preparation.options()) or "no input options"
        why += f" as given, but {percent(best.accuracy)} with {best.words}"
        if gain > WRONGLY_FED and not as_is:
            raise CorralError(
                f"{name}: {why}: the model is not fed what it was trained on; give {option} (eps stays in units of "
                f"[0, 1]), or --as-is to audit it so (tried on {n} images: {others})"
            )
        why, remedy = f"{why} (tried: {others})", f"Give {option}."
    elif given.accuracy < chance + max(NEAR_CHANCE, STANDARD_ERRORS * (chance * (1 - chance) / n) ** 0.5):
        why += f" and chance {percent(chance)}; nothing tried is better: {others}"
        remedy = "Check the weights, the labels and the data."
    else:
        why += "; no other scale, normalisation, channel order or label shift is better beyond chance "
        why, verdict, remedy = f"{why}(tried: {others})", "ok", ""
    return Finding(
        name="fed",
        title="Inputs as in training",
        value=given.accuracy,
        verdict=verdict,
        explanation=f"{why[0].upper()}{why[1:]}.",
        remedy=remedy,
        n=n,
        seconds=seconds,
    )


def _error(one: Trial, other: Trial) -> float:
    """Standard error of the difference of two accuracies on the same images: only where the two differ counts."""
    return math.sqrt(int((one.correct != other.correct).sum())) / len(one.correct)


def _simplest_best(tried: list[Trial]) -> Trial:
    """Of the ways to feed the model that cannot be told from the best, the one with the fewest options."""
    best = max(tried, key=lambda trial: trial.accuracy)
    equals = [trial for trial in tried if best.accuracy - trial.accuracy <= _error(best, trial)]
    return min(equals, key=lambda trial: len(trial.preparation.options()))
