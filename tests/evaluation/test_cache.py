"""Interrupted evaluations: nothing finished is repeated, no other plan is mixed in, the record is the same."""

import json
import multiprocessing
import random
import signal
import time

import numpy as np
import pytest

from corral.attacks import LOG_20, MARGIN_20
from corral.errors import CorralError
from corral.evaluation import evaluate
from corral.evaluation.cache import Batch, EvaluationCache, EvaluationPlan, PlannedAttack
from corral.training import train

TINY = {"data.train": 300, "width": 4, "model.features": 16, "epochs": 2, "warm_start.epochs": 1}
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["corral.evaluation", "sklearn.datasets"])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train("nominal", out=tmp_path_factory.mktemp("cache") / "run", progress=False, **TINY)


def plan(**changes):
    values = {
        "protocol": "quick",
        "model": "m",
        "data": "d",
        "norm": "Linf",
        "eps": 0.1,
        "n": 100,
        "seed": 0,
        "batch_size": 50,
        "attacks": [PlannedAttack(name="a", settings={"steps": 20})],
        "device": "cpu",
        "corral": "0",
        "torch": "0",
    }
    return EvaluationPlan(**(values | changes))


def batch(n=3):
    return Batch(
        correct=np.array([True, False, True][:n]),
        step=np.array([-1, 4, -1][:n]),
        shown=np.zeros((1, 1, 2, 2), np.float32),
        seconds=1.5,
        forwards=30,
        backwards=20,
    )


def without_times(record):
    """A record's content but for when it was made and how long that took."""
    content = json.loads(record.model_dump_json())
    for part in (content, *content["attacks"]):
        for name in ("seconds", "eval_seconds", "created"):
            part.pop(name, None)
    return content


def test_a_batch_comes_back_as_it_was_written(tmp_path):
    cache = EvaluationCache(tmp_path / "x.unfinished", plan())
    cache.write("a", 0, batch())
    again = EvaluationCache(tmp_path / "x.unfinished", plan())
    found = again.read("a", 0)
    assert all(np.array_equal(getattr(found, name), value) for name, value in vars(batch()).items())
    assert again.read("a", 1) is None
    assert again.read("b", 0) is None
    again.close()
    assert not (tmp_path / "x.unfinished").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "other"}, "another model: there m, now other"),
        ({"data": "other"}, "another data: there d, now other"),
        ({"eps": 0.2}, "another eps: there 0.1, now 0.2"),
        ({"seed": 1}, "another seed"),
        ({"batch_size": 10}, "another batch_size"),
        ({"torch": "1"}, "another torch"),
        (
            {"attacks": [PlannedAttack(name="b", settings={"steps": 20})]},
            r"another attacks: there a \(steps 20\), now b",
        ),
        ({"attacks": [PlannedAttack(name="a", settings={"steps": 10})]}, "another attacks: .* now a .steps 10."),
    ],
)
def test_another_plan_is_refused_and_fresh_begins_anew(tmp_path, changes, words):
    EvaluationCache(tmp_path / "x", plan()).write("a", 0, batch())
    with pytest.raises(CorralError, match=words) as caught:
        EvaluationCache(tmp_path / "x", plan(**changes))
    assert "--overwrite" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert EvaluationCache(tmp_path / "x", plan()).read("a", 0) is not None
    assert EvaluationCache(tmp_path / "x", plan(**changes), overwrite=True).read("a", 0) is None


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"{}"])
def test_damaged_files_are_named(tmp_path, content):
    cache = EvaluationCache(tmp_path / "x", plan())
    cache.write("a", 0, batch())
    path = tmp_path / "x" / "a-00000.npz"
    path.write_bytes(content)
    with pytest.raises(CorralError, match=r"a-00000\.npz: not a finished batch.* delete it"):
        cache.read("a", 0)
    (tmp_path / "x" / "plan.json").write_bytes(content)
    with pytest.raises(CorralError, match=r"plan\.json: not the plan of an evaluation"):
        EvaluationCache(tmp_path / "x", plan())


def test_a_changed_attack_list_or_threat_is_refused_in_a_real_evaluation(run, monkeypatch):
    def interrupted(self, attack, rows):
        raise KeyboardInterrupt

    arguments = {"n": 40, "batch_size": 20, "progress": False}
    with monkeypatch.context() as patch:
        patch.setattr("corral.attacks.engine._Engine._run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluate(run, attacks=[LOG_20], **arguments)
    with pytest.raises(CorralError, match="unfinished evaluation with another attacks"):
        evaluate(run, attacks=[LOG_20, MARGIN_20], **arguments)
    with pytest.raises(CorralError, match="unfinished evaluation with another batch_size"):
        evaluate(run, attacks=[LOG_20], **(arguments | {"batch_size": 10}))
    assert evaluate(run, attacks=[LOG_20, MARGIN_20], overwrite=True, **arguments).n == 40


def test_finished_batches_are_not_repeated(run, monkeypatch):
    from corral.attacks.engine import _Engine

    honest, calls = _Engine._run, []

    def counted(self, attack, rows):
        calls.append((attack.name, attack.threat, int(rows[0])))
        if len(calls) == 9:
            raise KeyboardInterrupt
        return honest(self, attack, rows)

    monkeypatch.setattr(_Engine, "_run", counted)
    arguments = {"n": 60, "batch_size": 20, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        evaluate(run, **arguments)
    evaluate(run, **arguments)
    # Only the batch that was under way when the interruption came is met twice.
    assert [call for call in set(calls) if calls.count(call) > 1] == [calls[8]]


@pytest.mark.slow
@pytest.mark.parametrize("times", [4, pytest.param(10, marks=pytest.mark.thorough)])
def test_kills_at_random_moments_change_nothing(run, times):
    arguments = {"n": 120, "batch_size": 12, "attacks": [LOG_20], "progress": False, "device": "cpu"}
    alone = without_times(evaluate(run, **arguments))
    label = run / "records" / "custom-n120"
    before = dict(np.load(label.with_suffix(".npz"), allow_pickle=False))
    label.with_suffix(".json").unlink()
    label.with_suffix(".npz").unlink()
    moment, kills, finished = random.Random(0), 0, set()
    while kills < times:
        process = CONTEXT.Process(target=evaluate, args=(run,), kwargs=arguments)
        process.start()
        folder = label.with_suffix(".unfinished")
        # Killed between a moment after its first own batch and a little later: anywhere in a batch or in a write.
        while process.is_alive() and set(folder.glob("[!.]*-*.npz")) <= finished:
            time.sleep(0.002)
        time.sleep(moment.uniform(0, 0.02))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "the evaluation ended before it was killed: give it more batches"
        kills += 1
        assert finished <= set(folder.glob("[!.]*-*.npz"))
        finished = set(folder.glob("[!.]*-*.npz"))
    after = without_times(evaluate(run, **arguments))
    assert after == alone
    arrays = dict(np.load(label.with_suffix(".npz"), allow_pickle=False))
    assert arrays.keys() == before.keys()
    assert all(np.array_equal(arrays[name], before[name]) for name in before)
    assert not list(label.parent.glob(".*"))
