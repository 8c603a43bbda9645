"""What others report stands beside what was measured, each called what it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from corral.records import Record, Reported
from corral.report import report
from corral.report.runs.collect import collect
from corral.report.runs.protocols import claims

CLAIM = Reported(clean=0.9103, robust=0.7444, attack="PGD-20", source="ClusTR Table 1")


def test_a_claim_is_told_apart_from_the_lowest_measurement(
    write_run: Callable[..., Path], record: Callable[..., Record]
) -> None:
    runs = [write_run(record("claimed", reported=CLAIM)), write_run(record("plain"))]
    (sentence,) = claims(collect(runs))
    assert sentence == (
        "claimed: ClusTR Table 1 reports 91.0% clean and 74.4% robust under PGD-20. Measured here: 98.0% clean, 40.0% "
        "under PGD in log space at Linf eps 0.2, on all 400 test images."
    )


def test_the_page_carries_the_claim_and_calls_a_reduced_protocol_so(
    write_run: Callable[..., Path], record: Callable[..., Record], attack: Any, tmp_path: Path
) -> None:
    made = record("run", reported=CLAIM, n=400, n_test=1000, reduced=True, protocol="standard")
    page = report([write_run(made)], out=tmp_path / "page.html").read_text()
    assert "ClusTR Table 1 reports 91.0% clean and 74.4% robust under PGD-20." in page
    assert "on 400 of 1,000 test images." in page
    assert "standard, reduced: 400 of 1,000 images" in page
    assert "Reduced: 400 of 1,000 test images" in page
