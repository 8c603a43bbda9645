"""`corral analyze`: what it makes of a run, what it keeps, what it refuses; the page."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from tests.earlier import write_with
from typer.testing import CliRunner

from corral.analysis import ANALYSES, AnalysisCache, Found, read_analysis
from corral.analysis.analyze import analyze
from corral.cli import app
from corral.errors import CorralError, UsageError
from corral.report.analysis.page import render_analyses
from corral.training import load_model, train

N = 20


@pytest.fixture(scope="module")
def found(released):
    return analyze(released, n=N, device="cpu", progress=False)


def test_a_cluster_run_has_them_all_and_each_is_a_document(released, found):
    assert tuple(found) == ("embedding", "match", "cosine", "compactness", "norms", "features", "bounds")
    for name, analysis in found.items():
        assert read_analysis(released / "analyses" / f"{name}-n{N}.json") == analysis
        assert analysis.n == N


def test_a_second_call_makes_nothing_and_fresh_makes_it_again(released, found, monkeypatch):
    calls = []

    def made(subject):
        calls.append(subject)
        return Found(found["cosine"].numbers, found["cosine"].series)

    monkeypatch.setitem(ANALYSES._things, "cosine", replace(ANALYSES["cosine"], measure=made))
    assert analyze(released, only=["cosine"], n=N, device="cpu", progress=False) == {"cosine": found["cosine"]}
    assert not calls
    analyze(released, only=["cosine"], n=N, overwrite=True, device="cpu", progress=False)
    assert len(calls) == 1


def test_an_analysis_of_other_weights_is_made_again(released, found):
    path = released / "analyses" / f"cosine-n{N}.json"
    write_with(path, model_fingerprint="0" * 16, numbers={"clean": 0.0})
    again = analyze(released, only=["cosine"], n=N, device="cpu", progress=False)["cosine"]
    assert again.numbers == pytest.approx(found["cosine"].numbers)


def test_an_analysis_of_an_earlier_version_is_made_again_where_a_number_is_asked_for(released, found, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(released, run)
    path = run / "analyses" / f"cosine-n{N}.json"
    document = json.loads(path.read_text())
    old = {name: value for name, value in document["numbers"].items() if not name.endswith("of classes")}
    write_with(path, numbers=old)
    kept = AnalysisCache(run, n=N, progress=False)
    assert kept.analysis("cosine", needs=["clean sd"]).numbers == old
    again = kept.analysis("cosine", needs=["clean sd of classes"])
    assert again.numbers == pytest.approx(found["cosine"].numbers)
    assert read_analysis(path) == again


def test_a_damaged_analysis_is_named(released, found):
    path = released / "analyses" / f"match-n{N}.json"
    kept = path.read_text()
    path.write_text(kept[: len(kept) // 2])
    with pytest.raises(CorralError, match=r"match-n20.json"):
        analyze(released, only=["match"], n=N, device="cpu", progress=False)
    path.write_text(kept)


def test_a_linear_run_has_no_radius_bounds(tmp_path):
    settings = {"data.train": 200, "model.width": 4, "training.epochs": 1}
    folder = train("nominal", out=tmp_path / "run", progress=False, device="cpu", **settings)
    found = analyze(folder, only=["match", "cosine"], n=N, device="cpu", progress=False)
    assert list(found) == ["match", "cosine"]
    with pytest.raises(UsageError, match="this analysis needs a cluster head"):
        analyze(folder, only=["bounds"], n=N, device="cpu", progress=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "tsne"], "unknown analysis 'tsne'; did you mean 'cosine'?; known: "),
    ],
)
def test_wrong_use_is_one_line(released, arguments, words):
    result = CliRunner().invoke(app, ["analyze", str(released), "--n", str(N), *arguments])
    assert isinstance(result.exception, UsageError)
    assert words in str(result.exception)
    assert "\n" not in str(result.exception)


def test_a_seed_that_no_generator_takes_is_refused(released):
    with pytest.raises(UsageError, match="seed must be from 0 to"):
        analyze(released, n=N, seed=99999999999)
    result = CliRunner().invoke(app, ["analyze", str(released), "--seed", "99999999999"])
    assert result.exit_code == 2
    assert "'--seed': " in result.output  # its own words differ between versions of typer
    assert re.search(r"(less than or equal to 4294967295|not in the range 0<=x<=4294967295)\b", result.output)


def test_no_run_is_one_line(tmp_path):
    with pytest.raises(CorralError, match="no such run folder"):
        analyze(tmp_path / "none")


def test_the_command_prints_the_documents_numbers_and_writes_the_page(released, found):
    result = CliRunner().invoke(app, ["analyze", str(released), "--n", str(N), "--quiet"])
    assert result.exit_code == 0, result.output
    assert f"clean {100 * found['match'].numbers['clean']:.1f}%" in result.output
    page = (released / "analyses" / "page.html").read_text()
    for name in found:
        assert f"<h2>{ANALYSES[name].title.replace(chr(39), '&#39;')}</h2>" in page
    assert page.count("<svg") == len(found)
    assert "http://" not in page.replace("http://www.w3.org", "")
    as_json = CliRunner().invoke(app, ["analyze", str(released), "--n", str(N), "--quiet", "--json"])
    assert json.loads(as_json.stdout)[0]["cosine"]["numbers"] == found["cosine"].numbers


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "br", "img", "path", "use", "rect", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag not in ("path", "use", "rect", "circle"):
            assert self.open.pop() == tag


def test_the_page_is_well_formed_and_names_are_escaped(released, found):
    info = load_model(released)[2].model_copy(update={"recipe": "<script>"})
    page = render_analyses("a <b> run", info, found)
    assert "<script>" not in page
    assert "a &lt;b&gt; run" in page
    tags = Tags()
    tags.feed(page)
    assert not tags.open
    assert render_analyses("a <b> run", info, found) == page


@pytest.mark.parametrize(
    ("names", "images", "attacks"),
    [
        (["silhouettes"], "120 training images", "none"),
        (
            ["silhouettes", "cluster_attack"],
            "40 test images (class-balanced) and 120 training images",
            "PGD at Linf eps",
        ),
        (["cluster_attack", "match"], "40 test images (class-balanced)", "PGD at Linf eps 0.1; DDN without a limit"),
        (["norms"], "40 test images (class-balanced)", "DDN and C&amp;W without a limit"),
        (["features"], "40 test images (class-balanced)", "none"),
    ],
)
def test_the_page_says_which_images_were_measured_and_what_moved_them(released, found, names, images, attacks):
    info = load_model(released)[2].model_copy(update={"eps": 0.1, "norm": "Linf"})
    some = next(iter(found.values()))
    kept = {
        name: some.model_copy(
            update={"name": name, "n": 120 if name == "silhouettes" else 40, "eps": 0.1, "numbers": NUMBERS[name],
                    "series": SERIES.get(name, {})}
        )
        for name in names
    }  # fmt: skip
    page = " ".join(render_analyses("run", info, kept).split())
    assert images in page
    assert f"Attacks</dt><dd>{attacks}" in page.replace("> <", "><").replace("</dt> <dd>", "</dt><dd>")


NUMBERS = {
    "silhouettes": {"best": 5.0, "width": 0.5},
    "cluster_attack": {"clusters": 5.0, "right": 30.0},
    "match": {"clean": 0.5, "pgd": 0.25, "ddn": 0.25},
    "norms": {"right": 30.0},
    "features": {"linear": 0.5},
}
SERIES = {
    "silhouettes": {"k": (5.0, 10.0), "width": (0.5, 0.25)},
    "norms": {"cw distances": (0.1, 0.2), "ddn distances": (0.1, 0.2)},
}
