"""Numbers and protocol names in words, the same on every page."""

import re
from collections.abc import Sequence

from corral.records import AttackResult, Environment
from corral.terminal import eps_words as eps_words

PUBLISHED = "pgd_published"
PUBLISHED_LOG = "pgd_published_log"
WORST_CASE = "worst_case"
AUTOATTACK = "autoattack"
# Rows that sum up other rows, image by image.
AGGREGATES = (AUTOATTACK, "adaptive", WORST_CASE)

_TITLES = {
    PUBLISHED: "PGD as published",
    "pgd_published_log": "PGD as published, on log-space logits",
    "pgd_published_100": "PGD as published, 100 steps",
    "pgd_published_100_log": "PGD as published, 100 steps, on log-space logits",
    "pgd_published_100_magnet": "PGD as published, 100 steps, on the Magnet loss",
    "pgd_ce": "PGD in log space",
    "pgd_cw": "PGD in log space, margin",
    "pgd_log_dlr": "PGD in log space, DLR",
    "pgd_10": "PGD-10",
    "pgd_10_targeted": "PGD-10, targeted",
    "pgd_20": "PGD-20",
    "pgd_50": "PGD-50",
    "pgd_50_targeted": "PGD-50, targeted",
    "pgd_50_training": "PGD-50 on the loss of training",
    "pgd_50_mmc": "PGD-50 on the centre loss",
    "pgd_50_length_10": "PGD-50, centres of length 10",
    "pgd_50_length_3": "PGD-50, centres of length 3",
    "pgd_50_length_1": "PGD-50, centres of length 1",
    "pgd_50_cosine": "PGD-50 on cosine logits",
    "apgd-ce": "APGD-CE",
    "apgd-t": "APGD-T",
    "fab-t": "FAB-T",
    "square": "Square",
    AUTOATTACK: "AutoAttack",
    "screening": "Screening figure (estimate of AutoAttack)",
    "adaptive": "Adaptive ensemble",
    WORST_CASE: "Worst case per image",
}

_OBJECTIVES = {
    "cross_entropy": "the cross-entropy of the logits",
    "margin": "the margin between the best wrong logit and the right one",
    "dlr": "the difference-of-logits ratio",
    "kl": "the KL divergence from the clean prediction",
    "soft_cross_entropy": "the cross-entropy against the clean prediction",
    "random_target": "minus the cross-entropy toward a class drawn at random",
    "magnet": "the Magnet loss",
    "trades": "the cross-entropy plus the consistency with the clean answer, as in training",
    "mart": "the boosted cross-entropy plus the misclassified images' consistency, as in training",
    "ikl": "the cross-entropy plus the improved KL divergence from the clean answer, as in training",
    "nuat": "the cross-entropy plus the length of the logits' move, as in training",
    "clustr": "the Magnet loss plus the consistency with the clean answer and the cross-entropy, as in training",
    "corral": "the loss against the head's clusters plus the pull to the own one, as in training",
    "certified": "the cross-entropy of the certified scores, as in training",
    "mat": "MAT's training loss",
    "mmc": "half the squared distance to the own centre",
    "inner_cross_entropy": "the cross-entropy of inner products with the centres",
    "cosine_cross_entropy": "the cross-entropy of cosines with the centres",
    "published_cross_entropy": "the cross-entropy of exponentiated scores used as if they were logits",
    "published_magnet": "the Magnet loss in the released code's arithmetic",
}

_SUCCESS_RULES = {
    "any_iterate": "an image counts as robust only if the model classifies every iterate of every restart right",
    "max_loss_restart": (
        "an image counts as misclassified only if the single restart with the largest loss succeeds, "
        "so images that another restart makes misclassified still count as robust"
    ),
}


def attack_title(name: str) -> str:
    """The name of an attack for a reader; one that is not known keeps its own name, and a threat in it stays."""
    base, at, threat = name.partition(" at ")
    return _TITLES.get(base, base) + at + threat


def attack_order(names: Sequence[str]) -> list[str]:
    """Attack names without repeats: the known ones in a fixed order, then others as they come, worst case last."""
    seen = list(dict.fromkeys(names))
    known = [name for name in _TITLES if name in seen and name != WORST_CASE]
    rest = [name for name in seen if name not in _TITLES]
    return known + rest + [name for name in seen if name == WORST_CASE]


def percent(value: float) -> str:
    """A fraction as a percentage with one decimal."""
    return f"{100 * value:.1f}%"


def points(value: float) -> str:
    """A difference of fractions in percentage points with one decimal."""
    return f"{100 * value:.1f} points"


def listed(items: Sequence[str]) -> str:
    """Items as a phrase: "a", "a and b", "a, b and c"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def counted(number: int, noun: str) -> str:
    """A number and its noun: "1 step", "1,000 steps"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def seconds_words(seconds: float | None) -> str:
    """A duration with the precision that a reader can use; an en dash where none is known."""
    if seconds is None:
        return "–"
    return f"{seconds:,.0f} s" if seconds >= 100 else f"{seconds:.1f} s"


def environment_facts(environment: Environment) -> list[tuple[str, str]]:
    """The rows of a list of facts that say what a number was made with."""
    e = environment
    versions = f"corral {e.corral}, torch {e.torch}, Python {e.python}, {e.platform}"
    return [("Versions", versions), ("Device", f"{e.device}, {counted(e.threads, 'thread')}")]


def protocol_words(attack: AttackResult) -> str:
    """One attack's whole protocol as sentences: its description, then steps, restarts, objective and success rule."""
    described = attack.protocol[:1].upper() + attack.protocol[1:].rstrip(".")
    if attack.name in AGGREGATES:
        return f"{described}. {attack.norm} eps {eps_words(attack.eps)}."
    if attack.step_size is None:
        threat = f"{attack.norm} eps {eps_words(attack.eps)}"
        counts = "any point that it meets counts" if attack.success_rule == "any_iterate" else "its last point counts"
        return f"{described}. {threat}; step sizes are the attack's own, {counts}."
    objective = _OBJECTIVES.get(attack.objective, attack.objective)
    single = attack.success_rule == "max_loss_restart" and attack.restarts == 1
    rule = (
        "an image counts as misclassified only if its last point is" if single else _SUCCESS_RULES[attack.success_rule]
    )
    return (
        f"{described}. As run: {attack.norm} eps {eps_words(attack.eps)}, {counted(attack.steps, 'step')} of size "
        f"{eps_words(attack.step_size)}, {counted(attack.restarts, 'restart')}, maximising {objective}; "
        f"{rule}."
    )


def slug(text: str) -> str:
    """Text as a file's name or an id."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-").lower()


def sentence(text: str) -> str:
    """Text with its first letter a capital and the others as they are."""
    return text[:1].upper() + text[1:]
