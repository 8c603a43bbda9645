"""Tables of the papers: their printed numbers, their runs, and that every figure shown is a record's own."""

import importlib
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from corral.checkpoints import read_checkpoint, write_checkpoint
from corral.cli import app
from corral.data import load
from corral.errors import CorralError, UsageError
from corral.evaluation import evaluate, read_record
from corral.evaluation.protocols import protocol_attacks
from corral.papers import Table, load_table, make, measure, plan, reproduce, shipped_tables, show
from corral.papers.definition import load_setting
from corral.papers.measure import with_assignment
from corral.papers.page import groups, sound_words, spread
from corral.papers.result import Measured, bare, read_result, unpacked
from corral.papers.show import table_result
from corral.papers.store import changing, read_store
from corral.report.words import slug
from corral.training import Run, load_model, load_recipe

evaluate_module = importlib.import_module("corral.evaluation.evaluate")

SEEDS = Path(__file__).resolve().parents[3] / "shared" / "seeds"
ROWS = ["Nominal Training", "ClusTR"]


# Numbers of which the seed's text lost a point, or that are bounds.
LOST = {
    ("mat-table3", "Natural", 1.0): "≤1",
    ("mat-table3", "Natural", 3.6): "36",
    ("mat-table3", "Natural", 2.9): "29",
    **{
        ("ncp-figure2", "SimCLR", best): "are 70, 150, and 215 for CIFAR-10, CIFAR-100, and STL-10"
        for best in (70, 150, 215)
    },
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two rows of Table 1 at smoke scale."""
    base = tmp_path_factory.mktemp("reproduce")
    page = reproduce(
        "clustr-table1", runs=base / "runs", results=base / "results", rows=ROWS, device="cpu", progress=False
    )
    return base, page


@pytest.mark.parametrize("name", shipped_tables())
def test_every_row_has_a_recipe_for_every_data_set_of_every_scale(name):
    table = load_table(name)
    contrastive = name.startswith("ncp-") and name != "ncp-toward"
    assert set(table.scales) == {"smoke", "small", "full"} | ({"short"} if contrastive else set())
    for parts in table.scales.values():
        for part in parts:
            for row in table.rows:
                for stage in (*row.stages, row):
                    shipped = load_recipe(stage.recipe)
                    overrides = load_setting(part.setting).overrides(shipped, stage.set)
                    recipe = load_recipe(stage.recipe, data=part.data, overrides=overrides)
                    assert recipe.data.name == part.data


@pytest.mark.parametrize("name", shipped_tables())
def test_what_begins_from_another_run_has_its_network_and_its_threat(name, tmp_path):
    table = load_table(name)
    for parts in table.scales.values():
        for part in parts:
            # Attacked at another radius than it was trained for, a row would look broken or safe for no reason.
            trained = {
                (recipe.threat.norm, recipe.threat.eps)
                for row in table.rows
                if row.has(part.data)
                for recipe, _ in plan.RunPlan(tmp_path).chain(part, row, part.seeds[0])
            }
            assert len(trained) == 1, (part.data, trained)
            for row in table.rows:
                chain = [recipe for recipe, _ in plan.RunPlan(tmp_path).chain(part, row, part.seeds[0])]
                assert len({recipe.model.model_dump_json() for recipe in chain}) == 1, (part.data, row.name)


@pytest.mark.skipif(not SEEDS.is_dir(), reason="the seed papers are not beside this checkout")
@pytest.mark.parametrize("name", shipped_tables())
def test_every_published_number_is_printed_in_a_seed_paper(name):
    printed = " ".join(path.read_text(errors="replace") for path in sorted(SEEDS.glob("*.txt")))
    # MAT prints 03.45 for 3.45.
    numbers = {re.sub(r"^0+(?=\d)", "", number) for number in re.findall(r"\d+\.\d+", printed)}
    for row in load_table(name).rows:
        for values in row.published.values():
            for column, value in values.items():
                lost = LOST.get((name, row.name, value))
                texts = {f"{value:.{digits}f}" for digits in (1, 2, 3)}
                assert texts & numbers or (lost and lost in printed), f"{row.name}, {column}: {value}"
        for minutes in row.minutes.values():
            assert re.search(rf"\b{minutes:.0f}\b", printed)


def test_tables_that_share_a_run_keep_their_own_number_of_images(made, tmp_path):
    """A run evaluated on 4 images for one table must not lend those numbers to a table of 20."""
    base, page = made
    (before,) = read_result(page.with_name("table.json")).parts
    runs = base / "runs"
    nominal = next((runs / "smoke").glob("digits-nominal-0-*"))
    evaluate(nominal, n=4, progress=False, device="cpu")
    again = reproduce(
        "clustr-table1", runs=runs, results=tmp_path, rows=["Nominal Training"], device="cpu", progress=False
    )
    (after,) = read_result(again.with_name("table.json")).parts
    assert after.rows[0].protocol == before.rows[0].protocol
    assert after.rows[0].sound == before.rows[0].sound
    (nominal / "records" / "quick-n4.json").unlink()
    (nominal / "records" / "quick-n4.npz").unlink()


def test_rows_of_an_earlier_call_stay_unless_their_recipe_changed(made, tmp_path, monkeypatch):
    base, page = made
    options = {"runs": base / "runs", "results": tmp_path, "device": "cpu", "progress": False}
    one = reproduce("clustr-table1", rows=ROWS[:1], **options)
    two = reproduce("clustr-table1", rows=ROWS[1:], **options)
    assert one == two
    (both,) = read_result(two.with_name("table.json")).parts
    (whole,) = read_result(page.with_name("table.json")).parts
    assert [row.name for row in both.rows] == ROWS
    assert [row.protocol for row in both.rows] == [row.protocol for row in whole.rows]
    # Of other settings the old row is another run's: it is marked, until it is made again, and compared with no other.
    smoke = load_setting("digits-smoke")
    changed = smoke.model_copy(update={"set": {**smoke.set, "training.epochs": 2}})
    monkeypatch.setattr(plan, "load_setting", lambda _: changed)
    page = reproduce("clustr-table1", rows=ROWS[:1], **options)
    (left,) = read_result(page.with_name("table.json")).parts
    assert [(row.name, row.earlier) for row in left.rows] == [(ROWS[0], False), (ROWS[1], True)]
    assert left.rows[1].protocol == both.rows[1].protocol
    assert f"| {ROWS[1]} (of an earlier setting) |" in page.with_name("table.md").read_text()
    assert f"{ROWS[1]} (of an earlier setting)" in page.read_text()
    # The mark is found again without any run, and goes when the row is made.
    marked = read_result(show("clustr-table1", results=tmp_path).with_name("table.json"))
    assert [row.earlier for row in marked.parts[0].rows] == [False, True]
    (again,) = read_result(reproduce("clustr-table1", rows=ROWS[1:], **options).with_name("table.json")).parts
    assert [row.earlier for row in again.rows] == [False, False]
    assert again.rows[1].runs != both.rows[1].runs


def test_a_caller_s_change_has_a_folder_of_its_own_and_is_said(made, tmp_path):
    base, page = made
    options = {"runs": base / "runs", "results": tmp_path, "device": "cpu", "progress": False}
    changed = {"clustr-published:method.alpha": 3.0, "data.train": 200}
    other = reproduce("clustr-table1", rows=ROWS, changed=changed, **options)
    assert other.parent.name == "clustr-table1-smoke-clustr-published-method.alpha-3.0-data.train-200"
    result = read_result(other.with_name("table.json"))
    assert result.changed == {"clustr-published:method.alpha": "3.0", "data.train": "200"}
    recipes = [load_recipe(base / "runs" / "smoke" / row.runs[0]) for row in result.parts[0].rows]
    assert [recipe.data.train for recipe in recipes] == [200, 200]
    assert {recipe.name: getattr(recipe.method, "alpha", None) for recipe in recipes} == {
        recipe.name: 3.0 if recipe.name == "clustr-published" else None for recipe in recipes
    }
    for text in (other.read_text(), other.with_name("table.md").read_text()):
        assert "data.train = 200, set by the caller: this is not the scale's own setting" in text.replace("&#39;", "'")
        assert "--set data.train=200" in text
    (whole,) = read_result(page.with_name("table.json")).parts  # the scale's own table is as it was
    assert all(load_recipe(base / "runs" / "smoke" / row.runs[0]).data.train == 300 for row in whole.rows)
    for key, words in (
        ("trades:training.epochs", "no row of ncp-table4 is made by 'trades'"),
        ("training.seed", "the table gives every run its own"),
    ):
        with pytest.raises(UsageError, match=words):
            reproduce("ncp-table4", changed={key: 1}, **options)
    with pytest.raises(UsageError, match=r"unknown recipe key .training\.epoch."):
        reproduce("clustr-table1", rows=ROWS[:1], changed={"training.epoch": 1}, **options)


def test_rows_made_by_other_protocols_than_the_table_s_do_not_stay(made, tmp_path, monkeypatch):
    base, _ = made
    options = {"runs": base / "runs", "results": tmp_path, "device": "cpu", "progress": False}
    reproduce("clustr-table1", rows=ROWS, **options)
    table = load_table("clustr-table1")
    (part,) = table.scales["smoke"]
    more = part.model_copy(update={"at_training_eps": ("centred",)})
    assert [more.protocols_at(factor) for factor in (1.0, 2.0)] == [(*part.protocols, "centred"), part.protocols]
    changed = table.model_copy(update={"scales": {**table.scales, "smoke": (more,)}})
    monkeypatch.setattr(make, "load_table", lambda _: changed)
    (left,) = read_result(reproduce("clustr-table1", rows=ROWS[:1], **options).with_name("table.json")).parts
    assert [row.name for row in left.rows] == ROWS[:1]
    store = read_store(tmp_path)
    (line,) = next(iter(store.of_table("clustr-table1", "smoke", "").values()))
    assert {store.attacks[name][0].protocol for name in line.evaluations.split()} == {
        "quick",
        "centred",
        "quick+centred",
    }


@pytest.mark.parametrize("what", ["column", "data", "weights"])
def test_rows_of_another_column_data_set_or_of_other_weights_do_not_stay(made, tmp_path, what, monkeypatch):
    base, page = made
    runs = base / "runs"
    shutil.copytree(base / "results", tmp_path / "results")
    options = {"results": tmp_path / "results", "rows": ROWS[:1], "device": "cpu", "progress": False}
    if what == "column":
        table = load_table("clustr-table1")
        columns = [c.model_copy(update={"attack": "pgd_ce"}) if c.name == "PGD-20" else c for c in table.columns]
        monkeypatch.setattr(make, "load_table", lambda _: table.model_copy(update={"columns": tuple(columns)}))
    if what == "data":
        ours = read_result(page.parent / "table.json").parts[0].data_fingerprint
        assert ours == load("digits").fingerprint
        with changing(tmp_path / "results") as store:
            store.runs = {key: run.model_copy(update={"data_fingerprint": "0000"}) for key, run in store.runs.items()}
    if what == "weights":
        shutil.copytree(runs, tmp_path / "runs")
        runs = tmp_path / "runs"
        ours = next(row for row in read_result(page.parent / "table.json").parts[0].rows if row.name == "ClusTR")
        path = runs / "smoke" / ours.runs[0] / "model.safetensors"
        tensors, metadata = read_checkpoint(path, kind="model")
        write_checkpoint(
            path, {name: t * 2 if name.startswith("backbone.") else t for name, t in tensors.items()}, metadata
        )
    (left,) = read_result(reproduce("clustr-table1", runs=runs, **options).with_name("table.json")).parts
    assert [row.name for row in left.rows] == ROWS[:1]


def test_an_attack_with_other_settings_is_made_again(made, tmp_path, monkeypatch):
    base, page = made
    shutil.copytree(base / "runs", tmp_path / "runs")
    options = {"runs": tmp_path / "runs", "results": tmp_path / "results", "rows": ROWS[:1]}

    def weaker(*arguments, **more):
        return tuple(attack for attack in protocol_attacks(*arguments, **more) if attack.name != "pgd_cw")

    for module in (measure, evaluate_module):
        monkeypatch.setattr(module, "protocol_attacks", weaker)
    again = reproduce("clustr-table1", device="cpu", progress=False, **options)
    (row,) = read_result(again.with_name("table.json")).parts[0].rows
    before = read_result(page.with_name("table.json")).parts[0].rows[0]
    assert "PGD" in row.sound["1"].attack
    assert row.sound["1"].attack != before.sound["1"].attack
    assert row.fingerprints == before.fingerprints


def test_a_row_says_when_its_last_evaluation_was_made(made):
    base, page = made
    for row in read_result(page.with_name("table.json")).parts[0].rows:
        folders = [base / "runs" / "smoke" / run / "records" for run in row.runs]
        records = [read_record(path) for folder in folders for path in folder.glob("quick*.json")]
        assert row.created == max(record.created for record in records)
        assert row.environments == (records[0].environment,)


def test_sound_attacks_that_differ_by_radius_say_at_which():
    results = Path(__file__).parents[2] / "results"
    (part,) = [
        part
        for part in read_result(results / "tables" / "mat-table3-small" / "table.json").parts
        if part.data == "cifar10"
    ]
    words = sound_words(load_table("mat-table3"), part)
    assert {line.partition(",")[0] for line in words} == {
        "Sound at the training eps",
        "Worst PGD at 2 × the training eps",
    }
    assert all(("APGD-T" in line) == line.startswith("Sound at the training eps") for line in words)


def test_a_run_is_the_same_wherever_the_runs_lie():
    table = load_table("clustr-table1")
    part = next(part for part in table.scales["small"] if part.data == "cifar10")
    for row in table.rows:
        if row.has(part.data):
            names = {plan.RunPlan(Path(place)).planned(part, row, 0)[1].path.name for place in ("/a", "/b/c")}
            assert len(names) == 1, row.name


def test_a_table_is_shown_again_from_its_numbers_alone(made, tmp_path):
    base, page = made
    folder = tmp_path / "tables" / page.parent.name
    for path in (base / "results").glob("*.csv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    result = CliRunner().invoke(app, ["reproduce", "clustr-table1", "--show", "--results", str(tmp_path)])
    assert (result.exit_code, result.output) == (0, f"wrote {folder / 'page.html'}\n")
    for name in ("table.json", "table.md", "page.html"):
        assert (folder / name).read_bytes() == page.with_name(name).read_bytes()
    with pytest.raises(CorralError, match=r"no row of cause at scale small; make it with `corral reproduce cause"):
        show("cause", scale="small", results=tmp_path)


def test_damaged_results_are_named_and_left_as_they_are(made, tmp_path):
    base, _ = made
    path = tmp_path / "runs.csv"
    path.write_text("run,fingerprint\n")
    with pytest.raises(CorralError, match=r"not corral results, no column 'classes'; restore .* or delete") as caught:
        reproduce("clustr-table1", runs=base / "runs", results=tmp_path, rows=ROWS[:1], device="cpu", progress=False)
    assert str(path) in str(caught.value)
    assert path.read_text() == "run,fingerprint\n"


def test_a_rule_is_changed_in_a_run_beside_the_trained_one(made):
    base, _ = made
    trained = Run(next((base / "runs" / "smoke").glob("digits-clustr-published-0-*")))
    model, _, info = load_model(trained.path)
    for rule in (1, 4, "nearest"):
        other, spec, story = load_model(with_assignment(trained, rule).path)
        assert (other.head.rule, spec.head["rule"], story) == (rule, rule, info)
        assert torch.equal(other.head.centroids, model.head.centroids)
        with torch.no_grad():
            features = torch.randn(30, other.features_dim, generator=torch.Generator().manual_seed(0))
            nearest = torch.cdist(features, other.head.centroids).argmin(1)
        if rule != 4:
            assert torch.equal(other.head(features).argmax(1), other.head.classes[nearest])
    assert load_model(trained.path)[0].head.rule == model.head.rule == "soft"
    with pytest.raises(UsageError, match="rule 21 keeps more clusters than the 20 there are"):
        with_assignment(trained, 21)
    linear = Run(next((base / "runs" / "smoke").glob("digits-nominal-0-*")))
    with pytest.raises(UsageError, match="a linear head has no decision rule to change"):
        with_assignment(linear, 1)


def test_every_number_is_that_of_a_record(made):
    base, page = made
    (part,) = table_result(load_table("clustr-table1"), "smoke", {}, read_store(base / "results")).parts
    assert bare(part) == read_result(page.with_name("table.json")).parts[0]
    assert [row.name for row in part.rows] == ROWS
    for row in part.rows:
        (run,) = row.runs
        (path,) = (base / "runs" / "smoke" / run / "records").glob(f"quick-n{part.n}.json")
        record = read_record(path)
        attacks = {attack.name: attack.accuracy for attack in record.attacks}
        assert row.protocol["Natural"].values == (record.clean,)
        assert row.protocol["PGD-20"].values == (attacks["pgd_published"],)
        # What was not run is absent, not nought.
        assert "PGD-100" not in row.protocol
        assert row.sound["1"].values == (attacks["worst_case"],)
        assert row.sound["1"].values[0] <= min(attacks.values())
        assert row.train_seconds == (record.train_seconds,)
        assert (part.n, part.n_test) == (record.n, record.n_test)
        # The images behind the numbers are those of the run.
        with np.load(base / "runs" / "smoke" / run / "records" / f"quick-n{part.n}.npz") as arrays:
            fates = {name: arrays[name] for name in arrays.files if name.startswith("correct_")}
        whole = np.logical_and.reduce(list(fates.values()))
        for measured, truth in (
            (row.protocol["Natural"], fates["correct_clean"]),
            (row.protocol["PGD-20"], fates["correct_pgd_published"]),
            (row.sound["1"], whole),
        ):
            assert [unpacked(kept, part.n).tolist() for kept in measured.kept] == [truth.tolist()]
        text = page.read_text()
        for value in (record.clean, attacks["pgd_published"], attacks["worst_case"]):
            assert f">{100 * value:.1f}<" in text
    assert ">87.34<" in page.read_text()
    assert "A smoke run" in page.read_text()
    assert "The published numbers are of cifar10" in page.read_text()


def test_a_second_call_repeats_no_training_and_no_evaluation(made):
    base, page = made
    before = {path: path.stat().st_mtime_ns for path in (base / "runs").rglob("*.safetensors")}
    records = {path: path.read_bytes() for path in (base / "runs").rglob("records/*.json")}
    written = {path: path.read_bytes() for path in (base / "results").rglob("*") if path.is_file()}
    assert page in written
    assert before
    assert records
    reproduce("clustr-table1", runs=base / "runs", results=base / "results", rows=ROWS, device="cpu", progress=False)
    assert {path: path.stat().st_mtime_ns for path in (base / "runs").rglob("*.safetensors")} == before
    assert {path: path.read_bytes() for path in (base / "runs").rglob("records/*.json")} == records
    assert {path: path.read_bytes() for path in (base / "results").rglob("*") if path.is_file()} == written


def test_other_settings_are_another_run(made, tmp_path):
    base, _ = made
    names = [path.name for path in (base / "runs").iterdir()] + [p.name for p in (base / "runs" / "smoke").iterdir()]
    found = [re.fullmatch(r"digits-(.+)-0-([0-9a-f]{8})", name) for name in names]
    assert {match[1] for match in found if match} == {"nominal", "clustr-published"}


def test_at_full_scale_mmc_has_its_authors_network_and_so_have_the_rows_taken_from_them(tmp_path):
    narrow, wide = ("resnet-cifar", 32, 16, 256), ("wideresnet", 34, 10, 256)
    for name in ("mat-table2", "mat-table3", "mat-table4"):
        table = load_table(name)
        part = next(part for part in table.scales["full"] if part.data == "cifar10")
        taken = {"nominal", "at", "mmc", "at-mmc"} if name == "mat-table3" else {"mmc", "at-mmc"}
        for row in table.rows:
            model = plan.RunPlan(tmp_path).planned(part, row, 0)[0].model
            expected = narrow if row.recipe in taken else wide
            assert (model.backbone, model.depth, model.width, model.features) == expected, (name, row.name)


def test_mean_and_deviation_are_over_the_seeds():
    assert spread(Measured(values=(0.5, 0.7), attack="a")) == "60.0 ± 14.1"
    assert spread(Measured(values=(0.5,), attack="a")) == "50.0"
    assert spread(None) == "–"


def test_columns_are_grouped_by_eps(made):
    table = load_table("clustr-table1").model_dump()
    table["columns"] = [
        {"name": "Natural", "attack": "clean"},
        {"name": "a", "attack": "pgd_published", "eps": 0.25},
        {"name": "b", "attack": "pgd_published_100", "eps": 0.25},
        {"name": "c", "attack": "pgd_published", "eps": 2},
    ]
    for row in table["rows"]:
        row["published"] = {}
    (part,) = read_result(made[1].with_name("table.json")).parts
    rows = tuple(row.model_copy(update={"published": {"b": 1.0}}) for row in part.rows)
    found = groups(Table.model_validate(table), part.model_copy(update={"rows": rows}))
    assert [(tuple(column.name for column in group.columns), group.factor, group.sound) for group in found] == [
        (("Natural",), "1", False),
        (("a", "b"), "0.25", True),
        (("c",), "2", True),
    ]
    # A column without a published number shows ours alone.
    assert [title for title, _ in found[1].headings()] == ["a, ours", "b, published", "b, ours", "worst PGD, ours"]
    other = [title for title, _ in found[1].headings("cifar10")]
    assert other == ["a, ours", "b, published on cifar10", "b, ours", "worst PGD, ours"]


def test_a_number_for_no_column_is_refused():
    table = load_table("clustr-table1").model_dump()
    table["rows"][0]["published"] = {"cifar10": {"PGD-7": 1.0}}
    with pytest.raises(ValueError, match="has a number on cifar10 for no column: 'PGD-7'"):
        Table.model_validate(table)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["clustr-table9"], "unknown table 'clustr-table9'; known: "),
        (["clustr-table1", "--scale", "huge"], "has no scale 'huge'; known: smoke, small, full"),
        (["clustr-table1", "--row", "ClusTRR"], "has no row 'ClusTRR'; known: Nominal Training, "),
    ],
)
def test_wrong_use_is_one_line(arguments, words, tmp_path):
    with pytest.raises(UsageError, match=re.escape(words)):
        CliRunner().invoke(
            app, ["reproduce", *arguments, "--results", str(tmp_path), "--quiet"], catch_exceptions=False
        )


@pytest.mark.parametrize("content", ["", "{}", '{"format": "corral-record-1"}', "[1"])
def test_a_foreign_table_is_one_line(content, tmp_path):
    path = tmp_path / "table.json"
    path.write_text(content)
    with pytest.raises(CorralError, match="not a corral table") as caught:
        read_result(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(CorralError, match="cannot be read"):
        read_result(tmp_path / "absent.json")


def test_the_list_names_source_and_title():
    output = CliRunner().invoke(app, ["reproduce"]).output
    for name in shipped_tables():
        assert name in output
        assert load_table(name).source in output


def test_names_become_files():
    assert slug("ClusTR + QTRADES (8/255)") == "clustr-qtrades-8-255"
