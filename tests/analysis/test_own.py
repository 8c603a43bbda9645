"""Analyses of the user's own: a function that is registered, measured beside the others and shown as numbers."""

import json
import shutil

import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

import corral
from corral.analysis import ANALYSES, Found, read_analysis
from corral.analysis.analyze import analyze
from corral.analysis.registry import CurvePoint, described
from corral.cli import app
from corral.errors import CorralError, UsageError
from corral.report.analysis.page import analysis_lines, render_analyses
from corral.report.analysis.registry import FIGURES, figures_of
from corral.report.table.sections import analysis_sections
from corral.training import load_model

N = 20


@pytest.fixture(autouse=True)
def only_here(monkeypatch):
    """What a test registers goes with it."""
    ANALYSES.names()
    monkeypatch.setattr(ANALYSES, "_things", dict(ANALYSES._things))
    monkeypatch.setattr(ANALYSES, "_places", dict(ANALYSES._places))
    monkeypatch.setattr(ANALYSES, "_aliases", dict(ANALYSES._aliases))
    monkeypatch.setattr(ANALYSES, "_earlier", set(ANALYSES._earlier))
    FIGURES.names()
    monkeypatch.setattr(FIGURES, "_things", dict(FIGURES._things))


def made(run, name, **options):
    return analyze(run, only=[name], n=N, device="cpu", progress=False, **options)[name]


def test_numbers_become_a_document_and_a_table_on_the_page(released):
    @corral.register.analysis("my-angle", title="How wide?")
    def angle(subject):
        return {"angle": 0.25, "images": float(len(subject.test))}

    found = made(released, "my-angle")
    assert read_analysis(released / "analyses" / f"my-angle-n{N}.json") == found
    assert (found.name, found.n, found.numbers) == ("my-angle", N, {"angle": 0.25, "images": 20.0})
    assert analysis_lines(found) == [("angle", "0.25"), ("images", "20")]
    page = render_analyses("run", load_model(released)[2], {"my-angle": found})
    assert "<h2>How wide?</h2>" in page
    assert "<dt>angle</dt><dd>0.25</dd>" in page
    assert "<svg" not in page
    assert f"{N} test images" in page
    result = CliRunner().invoke(app, ["analyze", str(released), "--n", str(N), "--only", "my-angle", "--quiet"])
    assert "my-angle: angle 0.25, images 20" in result.output


def test_columns_series_and_the_images_measured_are_as_stated(released):
    @corral.register.analysis(
        "shares", columns=[("share, %", "share", 100, 1)], images="train", attacks=["FGSM"], minimal_attacks=["DDN"]
    )
    def shares(subject):
        return Found({"share": 0.5, "more": 1.0}, {"curve": (0.0, 1.0)}, n=len(subject.train))

    found = made(released, "shares")
    assert found.n == load_model(released)[2].train_images
    assert found.series == {"curve": (0.0, 1.0)}
    assert analysis_lines(found) == [("share, %", "50.0")]
    page = " ".join(render_analyses("run", load_model(released)[2], {"shares": found}).split())
    assert "training images" in page
    assert "FGSM at Linf eps" in page
    assert "DDN without a limit" in page


def test_one_with_a_place_on_the_page_is_made_with_the_others_where_it_fits(released, tmp_path, monkeypatch):
    monkeypatch.setattr(ANALYSES, "_things", {name: ANALYSES[name] for name in ("cosine", "adversary")})

    @corral.register.analysis("clustered", page=0, needs_clusters=True)
    def clustered(subject):
        return {"clusters": float(len(subject.clusters.centroids))}

    assert list(analyze(released, n=N, device="cpu", progress=False)) == ["clustered", "cosine"]
    settings = {"data.train": 200, "model.width": 4, "training.epochs": 1}
    linear = corral.train("nominal", out=tmp_path / "run", progress=False, device="cpu", **settings)
    assert list(analyze(linear, n=N, device="cpu", progress=False)) == ["cosine"]
    with pytest.raises(UsageError, match="this analysis needs a cluster head"):
        made(linear, "clustered")


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (3, "analysis 'wrong' returned int, expected its numbers by name or a Found"),
        ({"x": "many"}, "analysis 'wrong': numbers.x: .*number.*, found 'many'"),
        ({"x": float("nan")}, "analysis 'wrong': numbers.x: .*finite number"),
    ],
)
def test_what_are_no_numbers_is_one_line(released, returned, words):
    @corral.register.analysis("wrong")
    def wrong(subject):
        return returned

    with pytest.raises(CorralError, match=words) as caught:
        made(released, "wrong")
    assert "\n" not in str(caught.value)


def test_a_measurement_that_fails_is_one_line(released):
    @corral.register.analysis("failing")
    def failing(subject):
        return {"x": 1 / 0}

    with pytest.raises(CorralError, match=r"analysis 'failing' failed \(ZeroDivisionError: division by zero\)"):
        made(released, "failing")


def test_a_function_of_a_file_is_named_by_its_target_if_it_is_registered(released, tmp_path):
    path = tmp_path / "angles.py"
    path.write_text(
        "import corral\n\n"
        "@corral.register.analysis('of-a-file')\n"
        "def registered(subject):\n    return {'x': 1.0}\n\n"
        "def plain(subject):\n    return {'x': 1.0}\n"
    )
    assert list(analyze(released, only=[f"{path}:registered"], n=N, device="cpu", progress=False)) == ["of-a-file"]
    with pytest.raises(UsageError, match="is no analysis: it is not registered"):
        analyze(released, only=[f"{path}:plain"], n=N, device="cpu", progress=False)


@pytest.mark.parametrize("name", ["a/b", "", "a b", "a:b", "../x"])
def test_a_name_is_that_of_a_file(name):
    with pytest.raises(UsageError, match="an analysis names a file"):
        corral.register.analysis(name)


def test_a_document_of_an_analysis_that_is_not_here_is_shown_plainly(released):
    @corral.register.analysis("gone", title="Words", columns=[("x", "x", 1, 1)])
    def gone(subject):
        return {"x": 1.5}

    path = released / "analyses" / f"gone-n{N}.json"
    made(released, "gone")
    del ANALYSES._things["gone"]
    found = read_analysis(path)
    assert json.loads(path.read_text())["format"] == "corral-analysis-2"
    assert described("gone").title == "gone"
    assert analysis_lines(found) == [("x", "1.5")]


@pytest.mark.parametrize("in_tables", [False, True])
def test_an_outsiders_figure_stands_on_the_page_and_if_asked_for_below_tables(released, in_tables):
    @corral.register.analysis("drawn", title="How wide?")
    def measure(subject):
        return {"angle": 0.25}

    @corral.register.figure("drawn", in_tables=in_tables)
    def bars(runs, classes):
        for label, analyses in runs.items():
            figure = Figure()
            figure.subplots().bar([label], [analyses[0].numbers["angle"]])
            yield f"of {label}, {len(classes)} classes", figure

    found = made(released, "drawn")
    page = render_analyses("run", load_model(released)[2], {"drawn": found})
    assert page.count("<svg") == 1
    assert 'aria-label="How wide?: of this run, 10 classes"' in page
    assert "<figcaption>of this run, 10 classes</figcaption>" in page
    below = figures_of("drawn", {"a": [found], "b": [found]}, [], name="drawn-digits", table=True)
    assert [caption for caption, _ in below] == (["of a, 0 classes", "of b, 0 classes"] if in_tables else [])


def test_a_table_may_have_a_line_a_number_and_points_of_curves(released):
    @corral.register.analysis("turned", columns=[("x, %", "x", 100, 0), ("y", "y", 1, 0)], transposed=True)
    def turned(subject):
        return {"x": 0.5}

    @corral.register.analysis("curved", curve_points=[CurvePoint("end", "curve", -1, ".1%")])
    def curved(subject):
        return Found({"x": 0.5}, {"curve": (0.0, 0.125)})

    rows = {"a": {"turned": [made(released, "turned")], "curved": [made(released, "curved")]}, "b": {}}
    first, second = analysis_sections(rows)
    assert (first.columns, first.rows) == (("attack", "a"), (("x, %", "50"),))
    assert (second.columns, second.rows) == (("trained", "x", "end"), (("a", "0.500", "12.5%"),))
    assert second.unit == f"mean ± sd over seeds; {N} images a seed"


def test_an_earlier_name_is_read_with_a_warning_and_nothing_is_measured_again(released, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(released, run)

    @corral.register.analysis("of-old")
    def of_old(subject):
        return {"x": 1.0}

    found = made(run, "of-old")

    @corral.register.analysis("of-today", earlier=["of-old"])
    def of_today(subject):
        raise AssertionError

    del ANALYSES._things["of-old"]
    old = run / "analyses" / f"of-old-n{N}.json"
    with pytest.warns(FutureWarning, match="^analysis 'of-old' is called 'of-today' now$"):
        assert made(run, "of-today") == found.model_copy(update={"name": "of-today"})
    with pytest.warns(FutureWarning, match="is called 'of-today' now"):
        assert list(analyze(run, only=["of-old"], n=N, device="cpu", progress=False)) == ["of-today"]
    with pytest.warns(FutureWarning, match="is called 'of-today' now"):
        assert read_analysis(old).name == "of-today"


@pytest.mark.parametrize(
    ("earlier", "name"),
    [("along", "gradient_norms"), ("changes", "protocol_ablation"), ("pursuit", "cluster_attack")],
)
def test_names_of_version_0_1_are_taken(earlier, name):
    with pytest.warns(FutureWarning, match=f"analysis '{earlier}' is called '{name}' now"):
        assert ANALYSES[earlier].name == name
    assert earlier not in ANALYSES.names()
