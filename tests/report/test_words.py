"""Numbers and protocols in words."""

from collections.abc import Callable
from typing import Any

import pytest

from corral.records import AttackResult
from corral.report.template import at_once
from corral.report.words import attack_order, attack_title, counted, eps_words, listed, percent, protocol_words


@pytest.mark.parametrize(
    ("eps", "words"),
    [
        (0.0, "0"),
        (0.1, "0.1"),
        (0.2, "0.2"),
        (8 / 255, "8/255"),
        (2 / 255, "2/255"),
        (1.0, "1"),
        (0.01234567, "0.01235"),
    ],
)
def test_eps_is_a_short_decimal_or_a_number_of_grey_levels(eps: float, words: str) -> None:
    assert eps_words(eps) == words


def test_attacks_keep_one_order_whatever_order_they_come_in() -> None:
    assert attack_order(["worst_case", "mine", "pgd_ce", "pgd_published", "pgd_ce"]) == [
        "pgd_published",
        "pgd_ce",
        "mine",
        "worst_case",
    ]


def test_unknown_attacks_keep_their_name_and_known_ones_their_threat() -> None:
    assert attack_title("mine") == "mine"
    assert attack_title("pgd_ce at L2 eps 0.5") == "PGD in log space at L2 eps 0.5"


def test_phrases() -> None:
    assert [listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
    assert [counted(1, "step"), counted(1000, "step")] == ["1 step", "1,000 steps"]
    assert percent(0.1234) == "12.3%"


def test_a_protocol_names_all_its_settings(attack: Callable[..., AttackResult]) -> None:
    words = protocol_words(attack("pgd_published", 0.5, eps=8 / 255))
    for part in ("Linf eps 8/255", "20 steps of size 2/255", "10 restarts", "exponentiated scores", "largest loss"):
        assert part in words
    changed: dict[str, Any] = {"success_rule": "any_iterate", "restarts": 1, "objective": "my objective"}
    words = protocol_words(attack("mine", 0.5, **changed))
    for part in ("Protocol of mine", "1 restart,", "maximising my objective", "every iterate of every restart"):
        assert part in words


def test_a_verdict_shows_the_sentences_that_three_lines_hold() -> None:
    two = "b" * 120
    for sentences, opened in (
        (["a"], []),
        (["a", "b", "c", "d"], ["d"]),
        (["a" * 100, "b", "c"], ["c"]),
        (["a" * 100, two, "c"], [two]),
        (["a", two, "c"], ["c"]),
        (["a" * 999, "b"], ["b"]),
    ):
        assert at_once(sentences) == ([one for one in sentences if one not in opened], opened)
