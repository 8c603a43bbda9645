"""Results of versions before 0.2, a folder a table with its records: read as they are, and merged row by row."""

import runpy
import shutil
from pathlib import Path

import pytest
from tests.earlier import make_earlier

from corral.documents import write_document
from corral.papers import load_table, reproduce, show
from corral.papers.lines import RowKey
from corral.papers.old import read_old
from corral.papers.result import Result
from corral.papers.show import table_result
from corral.papers.store import read_store

ROOT = Path(__file__).parents[2]
TOOL = runpy.run_path(str(ROOT / "experiments" / "compact_results.py"))
TABLE = load_table("clustr-table1")
ROWS = ["Nominal Training", "ClusTR"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two rows of Table 1 as this version writes them, and the same as an earlier one did."""
    base = tmp_path_factory.mktemp("old")
    page = reproduce(TABLE.name, runs=base / "runs", results=base / "new", rows=ROWS, device="cpu", progress=False)
    folder = base / "old" / "clustr-table1-smoke"
    folder.mkdir(parents=True)
    result = table_result(TABLE, "smoke", {}, read_store(base / "new"))
    (part,) = result.parts
    rows = []
    for row in part.rows:
        (run,) = row.runs
        (record,) = (base / "runs" / "smoke" / run / "records").glob(f"quick-n{part.n}.json")
        shutil.copyfile(record, folder / f"{row.recipe}.json")
        columns = {column.name: f"{column.attack} at {column.eps:g} eps" for column in TABLE.columns}
        rows.append(row.model_copy(update={"records": (f"{row.recipe}.json",), "columns": columns}))
    parts = (part.model_copy(update={"rows": tuple(rows)}),)
    write_document(Result(table=result.table, scale=result.scale, parts=parts), folder / "table.json")
    for path in folder.glob("*.json"):
        make_earlier(path)
    shutil.copyfile(page.with_name("table.md"), folder / "table.md")
    return base


def texts(results):
    return [(results / "tables" / "clustr-table1-smoke" / name).read_text() for name in ("table.md", "table.json")]


def test_an_old_folder_is_taken_over_with_one_line_and_gives_the_same_table(made, tmp_path, capsys):
    shutil.copytree(made / "old", tmp_path, dirs_exist_ok=True)
    show(TABLE.name, results=tmp_path)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "clustr-table1-smoke: of an earlier version, its rows were taken into" in said
    assert texts(tmp_path) == texts(made / "new")
    for name in ("attacks.csv", "runs.csv", "analyses.csv"):
        assert (tmp_path / name).read_bytes() == (made / "new" / name).read_bytes()
    show(TABLE.name, results=tmp_path)
    assert capsys.readouterr().err == ""


def test_rows_of_an_old_folder_stay_and_are_not_made_again(made, tmp_path):
    shutil.copytree(made / "old", tmp_path, dirs_exist_ok=True)
    options = {"runs": made / "runs", "results": tmp_path, "device": "cpu", "progress": False}
    reproduce(TABLE.name, rows=ROWS[:1], **options)
    assert texts(tmp_path) == texts(made / "new")


def test_a_row_whose_records_are_of_other_weights_is_left_out(made, tmp_path, capsys):
    shutil.copytree(made / "old" / "clustr-table1-smoke", tmp_path / "t")
    path = tmp_path / "t" / "nominal.json"
    store = read_store(made / "new")
    fingerprint = next(run.fingerprint for run in store.runs.values() if run.recipe == "nominal")
    path.write_text(path.read_text().replace(fingerprint, "0123456789abcdef"))
    assert {key.row for key in read_old(tmp_path / "t").rows} == {"ClusTR"}
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "digits, row 'Nominal Training': its record" in said
    assert "is of another run; the row is left out" in said


def a_key(row):
    return RowKey(table=TABLE.name, scale="smoke", changed="", data="digits", beside="cifar10", row=row)


def test_merging_takes_what_is_lacking_and_what_was_made_later(made, tmp_path, capsys):
    key = a_key("ClusTR")
    shutil.copytree(made / "old", tmp_path / "old")
    reproduce(TABLE.name, runs=made / "runs", results=tmp_path, rows=ROWS[:1], device="cpu", progress=False)
    TOOL["take"](tmp_path / "old", tmp_path, everything=False)
    assert capsys.readouterr().out == "clustr-table1-smoke: 1 rows taken\n    digits: ClusTR\n"
    assert texts(tmp_path) == texts(made / "new")
    assert TOOL["check"]([tmp_path / "old" / "clustr-table1-smoke"], tmp_path)
    assert "LOST" not in capsys.readouterr().out
    TOOL["take"](tmp_path / "old", tmp_path, everything=False)
    assert capsys.readouterr().out == "clustr-table1-smoke: 0 rows taken\n"
    # The same run measured later goes before, measured earlier it does not; a run of another recipe goes behind.
    ours = read_store(tmp_path)
    for old, new, other, taken in (("20", "30", False, True), ("20", "10", False, False), ("20", "30", True, False)):
        record = tmp_path / "old" / "clustr-table1-smoke" / "clustr-published.json"
        table = record.with_name("table.json")
        whole = record.read_text(), table.read_text()
        run = ours.rows[key][0].run
        renamed = f"{run[:-1]}_" if other else run
        record.write_text(whole[0].replace(f'"created": "{old}', f'"created": "{new}').replace(run, renamed))
        table.write_text(whole[1].replace(run, renamed))
        assert TOOL["newer"](key, ours, read_old(record.parent)) is taken, (new, other)
        record.write_text(whole[0])
        table.write_text(whole[1])


def test_a_number_that_the_new_table_lacks_is_found(made, tmp_path, capsys):
    shutil.copytree(made / "old", tmp_path / "old")
    path = tmp_path / "old" / "clustr-table1-smoke" / "table.md"
    text = path.read_text()
    (cell,) = {line.split(" | ")[2] for line in text.splitlines() if line.startswith("| ClusTR |")}
    path.write_text(text.replace(f"| ClusTR | 87.34 | {cell} |", "| ClusTR | 87.34 | 12.3 |"))
    assert not TOOL["check"]([tmp_path / "old" / "clustr-table1-smoke"], made / "new")
    assert f"ClusTR / Natural, ours: 12.3 is now {cell}: LOST" in capsys.readouterr().out
