"""A loss as a weighted sum of named terms, so that training and the attack on it add up the same ones."""

from collections.abc import Mapping

from torch import Tensor


def weighted(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """(N,) the sum of each example's terms times their weights.

    Args:
        terms: (N,) values of each term, by name.
        weights: of every term, by name; a term of weight 0 plays no part, whatever its values.

    Raises:
        ValueError: no term has a weight other than 0.
        KeyError: a term has no weight.
    """
    counted = [weights[name] * values for name, values in terms.items() if weights[name]]
    if not counted:
        raise ValueError(f"a loss needs a term of a weight other than 0, found {', '.join(terms) or 'none'}")
    total = counted[0]
    for values in counted[1:]:
        total = total + values
    return total
