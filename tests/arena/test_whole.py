"""A whole arena: screened, selected, run, killed and taken up, its table made twice."""

import json
import shlex

import pytest
from experiments.arena import run as run_module
from experiments.arena.__main__ import main
from experiments.arena.plan import final_jobs, job_of, line_of, screen_jobs
from experiments.arena.run import make
from experiments.arena.selection import read_selection, selected_file, selection_of

from corral.data import load
from corral.errors import CorralError
from corral.papers.result import unpacked
from corral.papers.store import read_store
from corral.report.words import WORST_CASE
from corral.training.guards import DivergedError
from corral.training.loop import Training

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    base = tmp_path_factory.mktemp("arena")
    return {"runs": base / "runs", "results": base / "results"}


@pytest.fixture(scope="module")
def screened(tiny, places):
    for job in screen_jobs(tiny, "tiny"):
        assert make(tiny, job, progress=False, device="cpu", **places)
    return read_store(places["results"])


@pytest.fixture(scope="module")
def finished(tiny, places, screened):
    assert main(["select", "--task", "tiny", "--results", str(places["results"])], tiny) == 0
    chosen = read_selection(places["results"], "tiny")
    jobs = final_jobs(tiny, "tiny", chosen.numbers, chosen.finalists)
    for job in jobs:
        assert make(tiny, job, progress=False, device="cpu", **places)
    return jobs


def by_attack(store, job):
    line = line_of(store, job)
    return {one.attack: one for name in line.evaluations.split() for one in store.attacks[name]}


def test_the_selection_is_the_most_robust_candidate_of_each_method(tiny, places, screened):
    found = selection_of(tiny, "tiny", screened)
    for job in screen_jobs(tiny, "tiny"):
        lines, tried = by_attack(screened, job), found.methods[job.entry].tried[job.candidate - 1]
        assert (tried.clean, tried.robust) == (lines["clean"].robust / 20, lines[WORST_CASE].robust / 20)
        assert (tried.run, tried.epochs) == (job.folder, job.epochs)
        best = found.methods[job.entry].best
        assert (best.robust, best.clean) >= (tried.robust, tried.clean)
    assert found.finalists[0] == "at"


def test_screening_meets_held_out_training_images_alone(tiny, places, monkeypatch, tmp_path):
    """Neither the images it trains on nor a test image goes to the attack, and the test part may be anything."""
    met = []

    def refuse(model, data, **_):
        met.append(data)
        raise CorralError("enough")

    monkeypatch.setattr(run_module, "evaluate", refuse)
    job = screen_jobs(tiny, "tiny")[0]
    with pytest.raises(CorralError, match="enough"):
        make(tiny, job, progress=False, device="cpu", runs=tmp_path / "runs", results=tmp_path / "results")
    images, labels = met[0]
    digits = load("digits")
    known = {bytes(image.numpy().tobytes()): "test" for image in digits.test.float()}
    known |= {bytes(image.numpy().tobytes()): "train" for image in digits.train.float()}
    assert {known[bytes(image.numpy().tobytes())] for image in images} == {"train"}
    assert len(labels) == 20
    trained = run_module.prepare_data(job.recipe, root=None)[1].float()
    used = {image.numpy().tobytes() for image in trained}
    assert not used & {image.numpy().tobytes() for image in images}


def test_a_run_that_is_there_is_not_made_again(tiny, places, finished):
    before = (places["results"] / "rows.csv").read_bytes()
    for job in finished:
        assert not make(tiny, job, progress=False, device="cpu", **places)
    assert (places["results"] / "rows.csv").read_bytes() == before


def test_the_commands_of_a_plan_can_be_given_again(tiny, places, finished, capsys):
    given = ["--task", "tiny", "--results", str(places["results"]), "--runs", str(places["runs"])]
    assert main(["plan", *given], tiny) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("0 of 10 runs to make")
    assert main(["plan", "--all", *given], tiny) == 0
    commands = capsys.readouterr().out.splitlines()
    assert len(commands) == 10
    for command in commands:
        words = shlex.split(command, comments=True)
        assert words[:3] == ["python", "-m", "experiments.arena"]
        assert main(words[3:], tiny) == 0
        assert capsys.readouterr().out.endswith("done already\n")


def test_outcomes_are_kept_image_by_image(tiny, places, finished):
    store = read_store(places["results"])
    for job in finished:
        lines = by_attack(store, job)
        clean, robust = (unpacked(lines[name].outcomes, 20) for name in ("clean", WORST_CASE))
        assert (clean.sum(), robust.sum()) == (lines["clean"].robust, lines[WORST_CASE].robust)
        assert not (robust & ~clean).any()


def test_passes_are_those_of_the_epochs_that_were_trained(tiny, places, finished):
    store = read_store(places["results"])
    for job in finished:
        line = line_of(store, job)
        run = store.runs[line.run, line.fingerprint]
        assert run.epochs == job.epochs
        assert run.forwards == 60 * job.epochs * job.cost.forwards
        assert run.backwards == 60 * job.epochs * job.cost.backwards
        assert (run.forwards + run.backwards) / 60 <= 2 * 6  # two epochs of two steps and one of training, both ways


def test_settings_that_diverge_are_tried_and_not_chosen(tiny, tmp_path, monkeypatch):
    def diverges(recipe, **given):
        raise DivergedError("the loss is not finite at step 2")

    own = {"runs": tmp_path / "runs", "results": tmp_path / "results", "progress": False, "device": "cpu"}
    jobs = [job for job in screen_jobs(tiny, "tiny") if job.entry == "at"]
    with monkeypatch.context() as broken:
        broken.setattr(run_module, "train", diverges)
        assert make(tiny, jobs[0], **own)
        with pytest.raises(DivergedError):
            make(tiny, job_of(tiny, "tiny", "final", "at", number=1, seed=0), **own)
    assert make(tiny, jobs[1], **own)
    assert not make(tiny, jobs[0], **own)
    found = selection_of(tiny, "tiny", read_store(own["results"])).methods["at"]
    assert [tried.diverged for tried in found.tried] == [True, False]
    assert (found.tried[0].clean, found.tried[0].robust) == (0, 0)
    assert found.candidate == 2 or found.best.clean == 0


def test_a_killed_run_is_taken_up_and_gives_the_same_rows(tiny, places, finished, tmp_path, monkeypatch):
    job = next(job for job in finished if job.epochs == 2)
    own = {"runs": tmp_path / "runs", "results": tmp_path / "results"}
    save, evaluate = Training._save, run_module.evaluate

    def killed(*_, **__):
        raise KeyboardInterrupt

    def save_then_die(training, numbers):
        save(training, numbers)
        raise KeyboardInterrupt

    for place, name, broken, whole in (
        (Training, "_save", save_then_die, save),
        (run_module, "evaluate", killed, evaluate),
        (run_module, "changing", killed, run_module.changing),
    ):
        monkeypatch.setattr(place, name, broken)
        with pytest.raises(KeyboardInterrupt):
            make(tiny, job, progress=False, device="cpu", **own)
        assert not (own["results"] / "rows.csv").is_file()
        monkeypatch.setattr(place, name, whole)
    monkeypatch.setattr(run_module, "evaluate", killed)  # the record of the call before serves
    assert make(tiny, job, progress=False, device="cpu", **own)
    ours, theirs = by_attack(read_store(own["results"]), job), by_attack(read_store(places["results"]), job)
    kept = ("run", "fingerprint", "robust", "outcomes", "forwards", "backwards", "settings")
    assert [[getattr(line, name) for name in kept] for line in ours.values()] == [
        [getattr(line, name) for name in kept] for line in theirs.values()
    ]


def test_the_table_is_made_of_the_rows_byte_for_byte(tiny, places, finished, capsys):
    folder, given = selected_file(places["results"], "tiny").parent, ["--results", str(places["results"])]
    assert main(["table", "--task", "tiny", *given], tiny) == 0
    files = {name: (folder / name).read_bytes() for name in ("table.json", "table.md", "selected.json", "page.html")}
    (folder / "table.md").write_text("other")
    capsys.readouterr()
    assert main(["table", "--check", *given], tiny) == 1
    assert capsys.readouterr().out == f"{folder / 'table.md'}: behind the CSV files\n"
    assert main(["table", *given], tiny) == 0
    assert {name: (folder / name).read_bytes() for name in files} == files
    assert main(["table", "--check", *given], tiny) == 0


def test_the_table_says_what_the_rows_say(tiny, places, finished):
    folder = selected_file(places["results"], "tiny").parent
    main(["table", "--task", "tiny", "--results", str(places["results"])], tiny)
    table = json.loads((folder / "table.json").read_text())
    store = read_store(places["results"])
    assert [entry["entry"] for entry in table["entries"]] == ["at", "at+flips", "trades"]
    for entry in table["entries"]:
        jobs = [job for job in finished if job.entry == entry["entry"]]
        assert entry["seeds"] == [job.seed for job in jobs]
        assert not entry["earlier"]
        assert entry["robust"] == [by_attack(store, job)[WORST_CASE].robust / 20 for job in jobs]
        for against in entry["against"]:
            others = {job.seed: job for job in finished if job.entry == against["other"]}
            pairs = [(job, others[job.seed]) for job in jobs if job.seed in others]
            gaps = [by_attack(store, a)[WORST_CASE].robust - by_attack(store, b)[WORST_CASE].robust for a, b in pairs]
            assert against["robust"][0] == pytest.approx(sum(gaps) / len(gaps) / 20)
    text = (folder / "table.md").read_text()
    assert "### Against at\n" in text
    assert "### How settings were chosen\n" in text


def test_rows_of_another_machine_are_merged_by_seed(tiny, places, finished, tmp_path):
    one, two = finished[0], next(job for job in finished if job.entry == finished[0].entry and job.seed == 1)
    for job, name in ((one, "a"), (two, "b")):
        make(tiny, job, progress=False, device="cpu", runs=places["runs"], results=tmp_path / name)
    assert main(["merge", str(tmp_path / "b"), "--results", str(tmp_path / "a")], tiny) == 0
    lines = read_store(tmp_path / "a").rows[one.key]
    assert [line.seed for line in lines] == [0, 1]


def test_a_row_of_an_earlier_setting_is_marked_and_made_again(tiny, places, finished):
    other = tiny.model_copy(update={"task": {"tiny": tiny.task["tiny"].model_copy(update={"budget": 3})}})
    store = read_store(places["results"])
    job = job_of(other, "tiny", "final", "at", number=1, seed=0)
    assert line_of(store, job) is None
    from experiments.arena.table import table_of

    table = table_of(other, "tiny", store, selection_of(other, "tiny", store))
    assert all(entry.earlier for entry in table.entries)


def test_a_final_without_a_selection_names_what_is_missing(tiny, tmp_path, capsys):
    assert main(["run", "--task", "tiny", "--stage", "final", "--entry", "at", "--results", str(tmp_path)], tiny) == 2
    assert "no selection; screen the candidates, then" in capsys.readouterr().err
