"""The results' CSV files: what is written is read, nothing is lost between two writers, and a bad cell is named."""

import hashlib
import multiprocessing
import re
import shutil

import pytest
import torch

from corral.analysis import Analysis
from corral.checksums import accept_edited
from corral.errors import CorralError
from corral.papers import store as module
from corral.papers.assemble import row_of
from corral.papers.definition import columns_digest, load_table
from corral.papers.entries import SeedResult, Trained, Worst, row_entries
from corral.papers.lines import RowKey, changed_words, read_changed
from corral.papers.store import Store, changing, read_store
from corral.records import AttackResult, Record, environment
from corral.training.convergence import Ending

TABLE = load_table("clustr-table1")
FILES = ("runs.csv", "attacks.csv", "analyses.csv", "rows.csv")


def a_record(run, protocol, attacks, *, eps=0.1, created="2026-01-01T00:00:00Z"):
    results = [
        AttackResult(
            name=name, protocol="", norm="Linf", eps=eps, steps=1, step_size=0.1, restarts=1, objective="x",
            success_rule="any_iterate", n=7, accuracy=robust / 7, per_class=[None], seconds=0.1 + 0.2, seed=0,
            settings={"steps": 20, "step_size": 0.1 / 3, "objective": "margin"},
        )
        for name, robust in attacks.items()
    ]  # fmt: skip
    return Record(
        run=run, recipe="at", method="at", head="linear", rule=None, data="digits", data_fingerprint="d",
        model_fingerprint=f"weights of {run}", n=7, n_test=9, train_seed=0, train_seconds=1 / 3, created=created,
        environment=environment(torch.device("cpu")), classes=["a", "b"], reduced=True, norm="Linf", eps=eps,
        clean=6 / 7, clean_per_class=[1.0, 0.5], attacks=results, eval_seed=0, eval_seconds=1.0, protocol=protocol,
    )  # fmt: skip


def entries(row="ClusTR", run="r", *, created="2026-01-01T00:00:00Z", analyses=()):
    """A row of one seed that two protocols attacked at one radius and one at twice that."""
    once = [
        a_record(run, "quick", {"pgd_published": 5, "worst_case": 4}, created=created),
        a_record(run, "standard", {"apgd-ce": 3, "worst_case": 3}, created=created),
    ]
    twice = [a_record(run, "quick", {"pgd_published": 1, "worst_case": 0}, eps=0.2, created=created)]
    one = SeedResult(
        run=run, seed=0, records={1.0: once, 2.0: twice},
        outcomes={1.0: {"clean": "fc", "pgd_published": "f8"}},
        worst={1.0: Worst(2, "c0"), 2.0: Worst(0, "00")}, analyses=analyses,
        trained=Trained(1 / 3, 0.1, "cpu", Ending(converged=True, epochs=3, warm_epochs=1)),
    )  # fmt: skip
    key = RowKey(table=TABLE.name, scale="small", changed="", data="digits", beside="cifar10", row=row)
    return row_entries(key, [one], recipe="at", rule=None, eps=0.1, columns="")


def an_analysis():
    return Analysis(
        name="features", model_fingerprint="weights of r", data="digits", n=7, eps=0.1, seed=0,
        numbers={"linear": 1 / 3, "nearest, of all": 1e-17}, series={"curve": (0.1 + 0.2, 2.0), "empty": ()},
        seconds=0.5, environment=environment(torch.device("cpu")),
    )  # fmt: skip


@pytest.mark.parametrize(
    "ending",
    [Ending(epochs=3), Ending(epochs=3, stopped="patience"), Ending(converged=False, epochs=2, stopped="collapse")],
)
def test_every_ending_is_read_as_it_was_written(tmp_path, ending):
    whole = entries()
    (key,), (run,) = whole.runs, whole.runs.values()
    told = {name: getattr(ending, name) for name in Ending.model_fields}
    whole.runs[key] = run.model_copy(update=told)
    write(tmp_path, whole)
    (row,) = whole.rows
    assert row_of(TABLE, row, whole.rows[row], read_store(tmp_path)).endings == (ending,)


def write(folder, *stores):
    with changing(folder) as found:
        for one in stores:
            found.add(one)


def test_what_is_written_is_read_to_the_last_bit(tmp_path):
    whole = entries(row='a "quoted", name', analyses=[an_analysis()])
    write(tmp_path, whole)
    assert read_store(tmp_path) == whole
    (key,) = whole.rows
    row = row_of(TABLE, key, whole.rows[key], read_store(tmp_path))
    assert row.analyses["features"] == (an_analysis(),)
    assert (row.train_seconds, row.work_seconds, row.work_clock) == ((1 / 3,), (0.1,), "cpu")
    assert row.endings == (Ending(converged=True, epochs=3, warm_epochs=1),)
    assert row.protocol["Natural"].values == (6 / 7,)
    assert row.protocol["Natural"].kept == ("fc",)
    assert row.protocol["PGD-20"].values == (5 / 7,)
    # The worst case over both protocols, not that of either.
    assert {factor: (found.values, found.kept) for factor, found in row.sound.items()} == {
        "1": ((2 / 7,), ("c0",)),
        "2": ((0.0,), ("00",)),
    }
    assert row.sound["1"].attack == "worst per image of PGD as published; APGD-CE"
    assert row.sound["2"].attack == "worst per image of PGD as published"


def test_a_row_made_again_takes_the_place_of_the_old_one_and_of_what_it_named(tmp_path):
    write(tmp_path, entries(), entries("TRADES"))
    new = entries(run="s", created="2026-02-01T00:00:00Z")
    write(tmp_path, new)
    found = read_store(tmp_path)
    assert {key.row: [line.run for line in lines] for key, lines in found.rows.items()} == {
        "ClusTR": ["s"],
        "TRADES": ["r"],
    }
    assert {run for run, _ in found.runs} == {"r", "s"}
    write(tmp_path, entries("TRADES", run="s", created="2026-02-01T00:00:00Z"))
    assert {run for run, _ in read_store(tmp_path).runs} == {"s"}
    assert found.attacks.keys() >= read_store(tmp_path).attacks.keys() == new.attacks.keys()


def test_two_rows_share_what_they_both_name(tmp_path):
    write(tmp_path, entries(), entries("TRADES"))
    found = read_store(tmp_path)
    assert len(found.rows) == 2
    assert (len(found.runs), len(found.attacks)) == (1, 4)


def test_outcomes_that_one_table_alone_knows_stay(tmp_path):
    known = entries()
    bare = entries("TRADES")
    bare.attacks = {
        name: [line.model_copy(update={"outcomes": ""}) for line in lines] for name, lines in bare.attacks.items()
    }
    write(tmp_path, known, bare)
    assert read_store(tmp_path).attacks == known.attacks


def add_rows(folder, name, count):
    for number in range(count):
        write(folder, entries(f"{name} {number}", run=f"{name}-{number}"))


def test_two_processes_that_write_at_once_lose_no_row(tmp_path):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=add_rows, args=(tmp_path, name, 8)) for name in ("a", "b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    found = read_store(tmp_path)
    assert {key.row for key in found.rows} == {f"{name} {number}" for name in "ab" for number in range(8)}
    assert len(found.runs) == 16


@pytest.mark.parametrize("killed_at", range(1, 9))
def test_a_kill_between_two_files_leaves_the_old_row_or_the_new_one(tmp_path, monkeypatch, killed_at):
    write(tmp_path, entries(analyses=[an_analysis()]))
    writes = []
    whole = module._write

    def stopped(path, form, lines):
        writes.append(path.name)
        if len(writes) == killed_at:
            raise KeyboardInterrupt
        whole(path, form, lines)

    monkeypatch.setattr(module, "_write", stopped)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, entries(run="s"))
    monkeypatch.undo()
    found = read_store(tmp_path)  # complains if a row names what is not there
    (lines,) = found.rows.values()
    assert [line.run for line in lines] == (["r"] if killed_at <= 4 else ["s"])
    write(tmp_path, entries(run="s"))
    assert read_store(tmp_path) == entries(run="s")


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("attacks.csv", ",6,", ",8,", "robust 8 is above n 7"),
        ("attacks.csv", ",6,", ",5,", "outcomes are not of 5 of 7 images"),
        ("attacks.csv", ",Linf,", ",L9,", "line 2, norm"),
        ("runs.csv", "at,at,linear", "at,at", "line 2"),
        ("rows.csv", "weights of r,", "weights of r,ffffffff ", "names ffffffff, which is in no other file"),
        ("rows.csv", "table,scale", "tabel,scale", "no column 'table'"),
        ("runs.csv", "0.1,0,0.33", "nan,0,0.33", "line 2, eps"),
    ],
)
def test_a_bad_cell_is_named_in_one_line(tmp_path, file, old, new, words):
    write(tmp_path, entries())
    path = tmp_path / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(CorralError, match=words) as caught:
        read_store(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["runs.csv", "attacks.csv", "analyses.csv"])
def test_a_lost_file_is_named(tmp_path, file):
    write(tmp_path, entries(analyses=[an_analysis()]))
    (tmp_path / file).unlink()
    with pytest.raises(CorralError, match=r"row 'ClusTR' of clustr-table1 names .*, which is in no other file"):
        read_store(tmp_path)


def test_no_results_are_empty_ones(tmp_path):
    assert read_store(tmp_path) == Store()
    write(tmp_path / "new", entries())
    assert {path.name for path in (tmp_path / "new").iterdir()} == {*FILES, ".lock"}
    shutil.rmtree(tmp_path / "new")


def test_changes_of_the_caller_survive_being_a_cell():
    changed = {"a": 200, "corral:method.alpha": None, "b": [1, 2], "c": True, "d": "last", "e": 3.0}
    assert changed_words(changed) == "a=200; corral:method.alpha=; b=[1, 2]; c=True; d=last; e=3.0"
    assert read_changed(changed_words(changed)) == changed
    assert read_changed("") == {}


def test_results_of_an_analysis_by_its_earlier_name_are_read_and_written_by_todays(tmp_path):
    today = an_analysis().model_copy(update={"name": "cluster_attack"})
    write(tmp_path, entries(analyses=[today]))
    path = tmp_path / "analyses.csv"
    whole = path.read_text()
    path.write_text(whole.replace(",cluster_attack,", ",pursuit,"))
    with pytest.warns(FutureWarning, match="analysis 'pursuit' is called 'cluster_attack' now"):
        write(tmp_path)
    assert path.read_text() == whole


def test_columns_keep_their_digest_when_an_analysis_is_renamed():
    table = load_table("ncp-table1")
    words = "|".join(f"{column.name}: {column.attack} at 1 eps" for column in table.columns)
    assert "cluster_attack." in words
    earlier = hashlib.sha256(words.replace("cluster_attack.", "pursuit.").encode()).hexdigest()[:8]
    assert columns_digest(table) == earlier


def cells_changed(text):
    """Each text of a CSV file that has one digit of one cell more by one."""
    head, _, rest = text.partition("\n")
    for found in re.finditer(r"\d", rest):
        at = found.start()
        yield f"{head}\n{rest[:at]}{(int(rest[at]) + 1) % 10}{rest[at + 1 :]}"


@pytest.mark.parametrize("name", FILES)
def test_each_changed_digit_of_the_results_is_named(tmp_path, name):
    write(tmp_path, entries(analyses=[an_analysis()]))
    path, alike = tmp_path / name, read_store(tmp_path)
    text = path.read_text()
    count = 0
    for changed in cells_changed(text):
        path.write_text(changed)
        try:
            found = read_store(tmp_path)
        except CorralError:
            count += 1
        else:
            assert found == alike
    assert count > 20
    lines = text.splitlines(keepends=True)
    for end in range(1, len(lines)):  # cut at the end of a line
        path.write_text("".join(lines[:end]))
        with pytest.raises(CorralError):
            read_store(tmp_path)


def test_an_accepted_edit_is_a_mark_that_stays(tmp_path):
    whole = entries(analyses=[an_analysis()])
    write(tmp_path, whole)
    path = tmp_path / "attacks.csv"
    path.write_text(path.read_text().replace(",pgd_published,1,", ",pgd_published,2,"))
    with pytest.raises(
        CorralError,
        match=r"attacks\.csv: attack pgd_published \(quick\) on r: edited since it was written.*--accept-edited",
    ):
        read_store(tmp_path)
    with accept_edited():
        write(tmp_path, entries(row="Another", run="another"))
        store = read_store(tmp_path)
        shown = [row_of(TABLE, one, lines, store).shown for one, lines in store.rows.items()]
    assert sorted(shown) == ["Another", "ClusTR (edited by hand)"]
    with pytest.raises(CorralError, match="edited since it was written"):
        read_store(tmp_path)
