"""Two processes give what one gives: every loss, centroid and weight to rounding, every record to the bit."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.distributed.trainings import MEASURED, TRAININGS, train
from tests.pictures import write_tree

import corral
from corral.distributed.launch import launched

ROOT = Path(__file__).resolve().parents[2]
# Of rounding: float32's, after up to six steps.
LOSS, WEIGHTS = 2e-6, 2e-4
# Where the gradients of a ReLU at a borderline, of all images at once, are as rounding has them.
LOSS_ALONE = ("ncp-acl", "acl-dual-norm")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As many as each of two processes has: others round otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes made, on pictures that each of them streams by a process of its own."""
    folder = tmp_path_factory.mktemp("two")
    write_tree(folder / "tree", train=10)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for name, value in {"XDG_CACHE_HOME": folder / "cache", "CORRAL_MEMORY_SHARE": 0, "CORRAL_WORKERS": 1}.items():
            patch.setenv(name, str(value))
        assert launched(["-m", "tests.distributed.job", str(folder)], 2, gpus=None) == 0
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """What this process makes of the same; runs are made when they are asked for."""
    folder = tmp_path_factory.mktemp("one")
    write_tree(folder / "tree", train=10)
    return folder


def made(one, name):
    """A run of this process, and those before it that it starts from."""
    start = TRAININGS[name][1].get("training.start")
    for each in filter(None, (start, name)):
        if not (one / each).exists():
            train(each, one / each)
    return one / name


def epochs(run):
    """Each epoch's numbers but for seconds."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "seconds" not in key and key != "phase"} for line in lines]


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_is_that_of_one_process(one, two, name):
    own, theirs = made(one, name), two / name
    for before, after in zip(epochs(own), epochs(theirs), strict=True):
        assert after == pytest.approx(before, rel=1e-3, abs=1e-5)
        assert after["loss"] == pytest.approx(before["loss"], rel=LOSS)
    if name in LOSS_ALONE:
        return
    before, after = load_file(own / "model.safetensors"), load_file(theirs / "model.safetensors")
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        torch.testing.assert_close(after[key], tensor, rtol=WEIGHTS, atol=WEIGHTS * float(tensor.abs().max()), msg=key)


def test_gradients_of_a_loss_that_couples_all_images_are_those_of_the_whole_batch(two):
    distances = json.loads((two / "found.json").read_text())["distances"]
    assert distances["whole 8"] < 1e-11
    assert distances["whole 7"] < 1e-11


def test_batch_statistics_are_those_of_the_whole_batch(two):
    distances = json.loads((two / "found.json").read_text())["distances"]
    assert distances["batch norm float64"] < 1e-12
    assert distances["batch norm bfloat16"] <= 2**-7


def test_clusters_of_points_in_two_processes_are_those_of_all_points(two):
    found = json.loads((two / "found.json").read_text())["clusters"]
    assert len(found) == 5
    for centroids, assignments, inertia, silhouette in found.values():
        assert (centroids < 1e-5, assignments, inertia < 1e-5, silhouette < 1e-6) == (True, 0, True, True)


def test_a_failure_of_one_is_raised_by_all(two):
    first, second = json.loads((two / "found.json").read_text())["raised"]
    assert (
        first
        == second
        == {
            "first": "no such thing",
            "other": "rank 1: no such thing",
            "differing": "the data: rank 0 has 0, rank 1 has 1",
        }
    )


def without(document, *names):
    """A document but for what may differ, at whatever depth."""
    if isinstance(document, dict):
        return {key: without(value, *names) for key, value in document.items() if key not in names}
    return [without(value, *names) for value in document] if isinstance(document, list) else document


@pytest.mark.parametrize(
    ("verb", "run", "file"),
    [
        (corral.evaluate, "at", "records/quick-n32"),
        (partial(corral.evaluate, protocol="screening"), "at", "records/screening-n32"),
        (partial(corral.certify, radii=[0.5]), "certified", "certificates/l2-n32"),
    ],
    ids=["evaluate", "an attack of attacks", "certify"],
)
def test_a_record_is_that_of_one_process_to_the_bit(two, tmp_path, verb, run, file):
    verb(two / run, out=tmp_path, **MEASURED)
    documents = [json.loads((folder / f"{file}.json").read_text()) for folder in (two / run, tmp_path)]
    timed = ("seconds", "eval_seconds", "certify_seconds", "created", "sha256", "threads")
    theirs, own = (without(document, *timed) for document in documents)
    assert theirs == own
    assert not list((two / run).rglob("*.unfinished"))


def test_an_audit_is_that_of_one_process_where_its_budget_is_enough(two):
    theirs = json.loads((two / "audit.json").read_text())
    own = corral.audit(str(two / "at"), eps=0.3, n=30, minutes=60, progress=False).model_dump(mode="json")
    # Passes of survivors depend on batches, which are of another size.
    differing = ("seconds", "created", "threads", "diagnostics_seconds", "forwards", "backwards", "notes")
    assert without(theirs, *differing) == without(own, *differing)
    assert theirs["n_attacked"] == 30
    assert not theirs["reduced"]


def test_a_run_of_two_is_continued_by_one(one, tmp_path, monkeypatch):
    """The state is that of the whole: the remaining epochs have the same order of images, and all but the same loss."""
    own = made(one, "corral")
    halved = tmp_path / "halved"
    monkeypatch.chdir(ROOT)
    code = launched(["-m", "tests.distributed.halved", str(halved)], 2, gpus=None)
    assert code == 1
    assert len(epochs(halved)) == 1
    train("corral", halved, resume=True)
    assert epochs(halved)[1]["loss"] == pytest.approx(epochs(own)[1]["loss"], rel=LOSS)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_leaves_the_others_before_it_ends(two, rank):
    left = json.loads((two / f"left-{rank}.json").read_text())
    assert not left["joined"]
    # A thread of gloo's that needs Python while Python ends aborts the process.
    assert not [name for name in left["threads"] if "gloo" in name]
