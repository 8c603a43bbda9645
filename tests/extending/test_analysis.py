"""docs/extending/analysis.md runs as it stands there."""

from collections.abc import Callable
from pathlib import Path

from corral.analysis import read_analysis


def test_the_analysis_of_the_page_is_measured_and_shown(extending: Callable[[str], str], tmp_path: Path) -> None:
    output = extending("extending/analysis.md")
    found = read_analysis(tmp_path / "runs/at/analyses/margins-n100.json")
    assert 0 < found.numbers["fgsm"] < found.numbers["clean"]
    assert f"margins: clean, median {found.numbers['clean']:.3f}" in output
    page = (tmp_path / "runs/at/analyses/page.html").read_text()
    assert "<h2>How far apart are the two best logits?</h2>" in page
    assert "FGSM at Linf eps" in page
