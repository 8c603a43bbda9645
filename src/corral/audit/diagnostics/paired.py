"""Whether one attack is stronger than another on the same images, beyond chance."""

from dataclasses import dataclass

from torch import Tensor

from corral.audit.diagnostics.findings import Verdict

# A right model is called masked by chance in at most 1 of 100 comparisons; most differ so clearly that it never is.
CHANCE = 0.01


def sign_test(more: int, less: int) -> float:
    """P(at least `more` heads in more + less tosses of a fair coin): McNemar's exact one-sided test."""
    from scipy.special import bdtrc  # late: importing it takes 0.2 s

    return float(bdtrc(more - 1, more + less, 0.5))


@dataclass(frozen=True)
class Comparison:
    """How many of `n` images only the challenger broke, and how many only the reference."""

    only_challenger: int
    only_reference: int
    n: int

    @property
    def excess(self) -> float:
        """The challenger's robust accuracy below the reference's, as a share of the n images; negative if above."""
        return (self.only_challenger - self.only_reference) / max(self.n, 1)

    @property
    def beyond_chance(self) -> bool:
        """Whether the challenger is stronger by the sign test at 1%: 7 images against 0 are, 6 against 0 are not."""
        return sign_test(self.only_challenger, self.only_reference) < CHANCE

    def at_least(self, share: float) -> bool:
        """Whether the challenger is stronger beyond chance, and by at least this share of the images."""
        return self.beyond_chance and self.excess >= share

    def verdict(self, large: float) -> Verdict:
        """ "masked" for an excess beyond chance of at least `large`, "note" for a smaller one beyond chance."""
        if not self.beyond_chance:
            return "ok"
        return "masked" if self.at_least(large) else "note"


def compare(challenger: Tensor, reference: Tensor) -> Comparison:
    """Compare two attacks by the (n,) bools of the images that each broke."""
    return Comparison(int((challenger & ~reference).sum()), int((reference & ~challenger).sum()), len(challenger))
