"""A table's runs as jobs: each once, in waves; by the plan's lines or by workers they are those of one call."""

import json
import shlex
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier, Lock

import pytest
from tests.faults.verbs import Verb, result
from typer.testing import CliRunner

from corral.cli import app
from corral.errors import UsageError
from corral.papers import load_table, reproduce, shipped_tables, side_by_side
from corral.papers.jobs import jobs_of, waves
from corral.papers.make import set_up
from corral.papers.side_by_side import make_side_by_side

# Every file that a table is made of; times, and what is made from them, are not compared.
FILES = ("*.toml", "*.jsonl", "*.safetensors", "records/*", "analyses/*")
EVERYTHING = Verb("reproduce", "", ("results/*.csv", "results/*/*/table.json", *(f"runs/*/*/{file}" for file in FILES)))
# Two rows on digits: one run, and another that begins from an adversarially trained one.
ROWS = ("ClusTR+QTRADES in log space", "+ adversarial warm start")
SMALL = {"data.train": 120, "model.width": 4, "training.warm_start.epochs": 1}
WHERE = {"results": "results", "device": "cpu", "progress": False}
OPTIONS = [word for row in ROWS for word in ("--row", row)] + [
    f for k, v in SMALL.items() for f in ("--set", f"{k}={v}")
]


def all_jobs(name, scale):
    setup = set_up(name, scale=scale, runs="runs")
    return setup, jobs_of(setup)


@pytest.mark.parametrize(
    ("name", "scale"), [*((name, "smoke") for name in shipped_tables()), ("clustr-table1", "full")]
)
def test_every_run_of_a_table_is_one_job_after_the_one_that_it_begins_from(name, scale):
    setup, jobs = all_jobs(name, scale)
    before = set()
    for job_name, job in jobs.items():
        assert job.name == job_name == job.folder.path.name
        assert job_name.isascii()
        assert shlex.quote(job_name) == job_name
        # What the recipe itself says that it begins from.
        begins = {job.recipe.training.start, getattr(job.recipe.method, "labeller", None)} - {None}
        assert begins == ({str(job.before.path)} if job.before else set())
        assert job.begins_from is None or job.begins_from in before
        before.add(job_name)
        assert all(setup.plan.planned(*one)[1] == job.folder for one in job.measured)
    table = load_table(name)
    meant = Counter(
        (part.data, row.name, seed)
        for part in table.scales[scale]
        for row in table.rows
        if row.has(part.data)
        for seed in part.seeds
    )
    assert meant == Counter((part.data, row.name, seed) for job in jobs.values() for part, row, seed in job.measured)


def test_waves_follow_the_chain_of_stages_and_leave_out_what_is_made(monkeypatch):
    setup, jobs = all_jobs("ncp-table4", "smoke")
    chain = {"simclr": 1, "ncp-acl": 2, "deacl": 2, "slf": 3}
    kinds = {name: max((kind for kind in chain if f"-{kind}-" in name), key=chain.get) for name in jobs}
    assert waves(setup, jobs) == {name: chain[kind] for name, kind in kinds.items()}
    monkeypatch.setattr("corral.papers.jobs.is_made", lambda _, job: kinds[job.name] in ("simclr", "deacl"))
    expected = {"simclr": 0, "ncp-acl": 1, "deacl": 0}
    found = waves(setup, jobs)
    for name, kind in kinds.items():
        assert found[name] == expected.get(kind, 1 if "deacl" in name else 2)


def plan(*arguments):
    """What `--plan` prints: the commands and the words on stderr."""
    done = CliRunner().invoke(app, ["reproduce", *arguments, "--plan"], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout.splitlines(), done.stderr


def call(line):
    """A plan's line as a shell calls it."""
    corral, *words = shlex.split(line)
    assert corral == "corral"
    return CliRunner().invoke(app, words, catch_exceptions=False)


def test_a_line_has_the_options_of_the_call_and_the_last_words_are_the_table_s(tmp_path):
    options = ["--scale", "small", "--data", "mnist", "--row", "… scores of every cluster", "--set", "data.train=200"]
    options += ["--set", "training.weight_decay=", "--runs", f"{tmp_path}/my runs", "--device", "cuda:3"]
    options += ["--data-root", "where they lie", "--threads", "1"]
    lines, said = plan("cause", *options, "--results", "here")
    assert len(lines) == 3
    for line, name in zip(lines, jobs_of(set_up("cause", **given_of(options))), strict=True):
        words = shlex.split(line)
        assert words[:3] == ["corral", "reproduce", "cause"]
        assert words[-2:] == ["--only", name]
        pairs = [words[place : place + 2] for place in range(3, len(words) - 2, 2)]
        assert sorted(pairs) == sorted(options[place : place + 2] for place in range(0, len(options), 2))
    assert said.startswith("3 of 3 runs to make; the table is written by: corral reproduce cause --scale small ")
    assert said.endswith(" --results here\n")
    assert Path("my runs").name not in {path.name for path in tmp_path.iterdir()}, "a plan writes nothing"
    before = ["--accept-edited", "reproduce", "cause", "--plan"]
    (first, *_) = CliRunner().invoke(app, before, catch_exceptions=False).stdout.splitlines()
    assert first.startswith("corral --accept-edited reproduce cause ")


def given_of(options):
    values = dict(zip(options[::2], options[1::2], strict=True))
    changed = {"data.train": 200, "training.weight_decay": None}
    rows, data, runs = [values["--row"]], [values["--data"]], values["--runs"]
    return {"scale": values["--scale"], "runs": runs, "rows": rows, "data": data, "changed": changed}


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    """The two rows, made by one call."""
    base = tmp_path_factory.mktemp("serial")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        reproduce("critique-proposals", rows=ROWS, changed=SMALL, runs="runs", **WHERE)
    return base


@pytest.mark.slow
def test_the_lines_killed_and_called_twice_make_what_one_call_makes(serial, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["critique-proposals", *OPTIONS, "--runs", "runs", "--device", "cpu", "--quiet"]
    alone, first, second = plan(*options)[0]
    assert plan(*options, "--wave", "1")[0] == [alone, first]
    assert plan(*options, "--wave", "2")[0] == [second]
    with pytest.raises(UsageError, match=r"begins from runs/smoke/digits-at-0-\w+, which is not made yet"):
        call(second)
    assert call(first).exit_code == 0
    with pytest.MonkeyPatch.context() as patch:  # trained, and killed before it is measured

        def killed(*_, **__):
            raise KeyboardInterrupt

        patch.setattr("corral.papers.measure.evaluate", killed)
        assert call(second).exit_code == 130
    assert plan(*options)[0] == plan(*options, "--wave", "1")[0] == [alone, second]
    for line in (second, first, alone, second):
        assert call(line).exit_code == 0
    assert plan(*options)[0] == []
    assert plan(*options, "--all")[0] == [alone, first, second]
    assert not (tmp_path / "results").exists()
    trained = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    gathered = [*options, "--results", "results"]
    assert CliRunner().invoke(app, ["reproduce", *gathered], catch_exceptions=False).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == trained
    assert result(EVERYTHING, tmp_path) == result(EVERYTHING, serial)


def test_for_machines_a_plan_is_one_document(tmp_path):
    options = ["critique-proposals", "--row", ROWS[1], "--runs", str(tmp_path)]
    lines, _ = plan(*options)
    found = json.loads("\n".join(plan(*options, "--json")[0]))
    assert [one["command"] for one in found] == lines
    assert [(one["wave"], one["begins_from"]) for one in found] == [(1, None), (2, found[0]["run"])]


@contextmanager
def threads(count, _):
    """Workers without processes."""
    with ThreadPoolExecutor(count) as pool:
        yield pool


def test_workers_make_every_run_once_after_its_stage_and_share_out_the_devices(monkeypatch, tmp_path):
    setup = set_up("ncp-table4", scale="smoke", runs=tmp_path, progress=False)
    jobs, lock, together = jobs_of(setup), Lock(), Barrier(4)
    second = [name for name, wave in waves(setup, jobs).items() if wave == 2]
    done, running, most, said = [], [], [], []

    def work(own, job, *_):
        with lock:
            assert job.begins_from in (None, *done)
            running.append(own.device)
            most.append(Counter(running))
        if job.name in second[:4]:  # all four workers are at work at once
            together.wait(timeout=30)
        with lock:
            running.remove(own.device)
            done.append(job.name)
        return 0.0

    monkeypatch.setattr(side_by_side, "_work", work)
    monkeypatch.setattr(side_by_side, "worker_pool", threads)
    monkeypatch.setattr(side_by_side, "_devices", lambda _: ["cuda:0", "cuda:1"])
    make_side_by_side(setup, jobs, 4, made=said.append)
    assert Counter(done) == Counter(said) == Counter(list(jobs))
    assert max(found.total() for found in most) == 4
    assert max(max(found.values()) for found in most) == 2


def test_a_worker_that_fails_ends_the_call_with_its_one_line(monkeypatch, tmp_path):
    setup = set_up("ncp-table4", scale="smoke", runs=tmp_path, progress=False)

    def work(_, job, *__):
        if "ncp" in job.name:
            raise UsageError(f"{job.name}: no")
        return 0.0

    monkeypatch.setattr(side_by_side, "_work", work)
    monkeypatch.setattr(side_by_side, "worker_pool", threads)
    with pytest.raises(UsageError, match=r"ncp-acl.*: no"):
        make_side_by_side(setup, jobs_of(setup), 2, made=lambda _: None)


@pytest.mark.slow
def test_two_processes_make_what_one_makes(serial, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reproduce("critique-proposals", rows=ROWS, changed=SMALL, runs="runs", workers=2, **WHERE)
    assert result(EVERYTHING, tmp_path) == result(EVERYTHING, serial)
    assert len(result(EVERYTHING, tmp_path)) > 12


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--plan"], "--plan needs a table; `corral reproduce` lists them"),
        (["cause", "--plan", "--only", "x"], "--plan and --only exclude each other; give one of them"),
        (["cause", "--show", "--workers", "2"], "--show and --workers exclude each other"),
        (["cause", "--wave", "1"], "--all and --wave say which commands --plan prints; give --plan too"),
        (["cause", "--only", "digits-at-0-00000000"], "has no run 'digits-at-0-00000000' by these options"),
        (["cause", "--plan", "--runs", "a\nb"], "a plan's line cannot hold "),
    ],
)
def test_options_that_say_nothing_together_are_one_line(arguments, words):
    with pytest.raises(UsageError, match=words) as caught:
        CliRunner().invoke(app, ["reproduce", *arguments], catch_exceptions=False)
    assert "\n" not in str(caught.value)


def test_no_worker_is_one_line():
    with pytest.raises(UsageError, match="workers must be 1 or more, found 0"):
        reproduce("cause", workers=0)
