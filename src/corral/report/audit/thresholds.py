"""From which value on a check is a note or masked, in words, and values in the same unit."""

from corral.audit.audit import SQUARE_IMAGES, SQUARE_MASKED, SQUARE_NOTE
from corral.audit.diagnostics.findings import Finding
from corral.audit.diagnostics.gradients import MANY_LOST, MANY_ZERO, SOME_LOST
from corral.audit.diagnostics.monotonicity import RISE, UNFINISHED
from corral.audit.diagnostics.outputs import CONFIDENT
from corral.audit.diagnostics.stronger import OBJECTIVE_WINS, WEAKER_WINS
from corral.audit.inputs import WORTH_NOTING, WRONGLY_FED

_BEYOND_CHANCE = "note if beyond chance, masked from {:.0%} of the images"
_RISING = f"note if it rises beyond chance, masked from a rise of {RISE:.0%}"
_UNFINISHED = f"{_RISING}; note from a last fall of {UNFINISHED:.0%}"
THRESHOLDS = {
    "fed": f"note from {WORTH_NOTING:.0%} more if fed otherwise, refused from {WRONGLY_FED:.0%} more",
    "train_mode": "note from 1 layer in train mode, masked from 1 that stays in it after eval()",
    "randomness": "masked above 0%",
    "bounded_outputs": f"ok from {CONFIDENT:.0%}; below it masked, a note where outputs are negative too",
    "zero_gradients": f"note above 0%, masked from {MANY_ZERO:.0%}",
    "gradient_underflow": f"note above 0%, masked from {MANY_ZERO:.0%}",
    "random_directions": f"note from {SOME_LOST:.0%}, masked from {MANY_LOST:.0%}",
    "one_step": _BEYOND_CHANCE.format(WEAKER_WINS),
    "unbounded": "masked above guessing, beyond chance",
    "other_objective": _BEYOND_CHANCE.format(OBJECTIVE_WINS),
    "black_box": _BEYOND_CHANCE.format(WEAKER_WINS),
    "eps": _RISING,
    "steps": _UNFINISHED,
    "restarts": _UNFINISHED,
    "autoattack_square": f"note from {SQUARE_NOTE:.0%} and {SQUARE_IMAGES} images, masked from {SQUARE_MASKED:.0%}",
}
"""By the name of the check. Its value is a share of images or a confidence, but for the counted ones."""

_COUNTED = ("train_mode",)


def threshold_words(finding: Finding) -> str:
    """The thresholds of a finding's check; empty where it is none of this version's."""
    return THRESHOLDS.get(finding.name, "")


def value_words(finding: Finding) -> str:
    """The value of a finding in the unit of its thresholds; an en dash where nothing was measured."""
    if finding.value is None:
        return "–"
    if finding.name in THRESHOLDS and finding.name not in _COUNTED:
        return f"{100 * finding.value:.1f}%"
    return f"{finding.value:.4g}"
