"""One training with weight averaging is also the one without."""

import pytest
import torch
from experiments.arena.unaveraged import begin_unaveraged

from corral.training import Run, load_recipe, train
from corral.training.convergence import Ending

TINY = {
    "data.train": 120, "data.validation": 0, "model.width": 4, "model.features": 16, "training.epochs": 2,
    "training.batch_size": 60, "training.select": "last",
}  # fmt: skip


@pytest.mark.parametrize("recipe", ["at", "corral"])
def test_the_model_is_that_of_a_training_of_its_own(tmp_path, recipe):
    own = train(recipe, out=tmp_path / "own", progress=False, **TINY)
    averaged = train(recipe, out=tmp_path / "mean", progress=False, **TINY, **{"training.weight_averaging": 0.9})
    resolved = load_recipe(recipe, overrides=TINY)
    assert begin_unaveraged(resolved, tmp_path / "made", averaged.path)
    made = train(resolved, out=tmp_path / "made", resume="auto", progress=False)
    expected = own.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in made.model.state_dict().items())
    assert made.info.train_seconds == averaged.info.train_seconds
    assert (made.info.epochs, made.info.ending) == (own.info.epochs, own.info.ending)
    assert [line["loss"] for line in made.metrics] == [line["loss"] for line in own.metrics]
    assert not begin_unaveraged(resolved, tmp_path / "made", averaged.path)  # a folder that is there stays


def test_a_run_that_was_stopped_is_not_taken(tmp_path, monkeypatch):
    """Its model is not of its last weights."""
    averaged = train("at", out=tmp_path / "mean", progress=False, **TINY, **{"training.weight_averaging": 0.9})
    stopped = averaged.info.model_copy(update={"ending": Ending(epochs=2, stopped="collapse")})
    monkeypatch.setattr(Run, "info", property(lambda _: stopped))
    assert not begin_unaveraged(load_recipe("at", overrides=TINY), tmp_path / "made", averaged.path)


@pytest.mark.parametrize(
    ("recipe", "other"),
    [("global-centroids", {}), ("at", {"training.class_targets": 0.1}), ("at", {"training.seed": 1})],
)
def test_a_training_that_depends_on_the_average_or_differs_is_not_taken(tmp_path, recipe, other):
    more = {**TINY, "training.epochs": 1, "model.features": 16}
    averaged = train(recipe, out=tmp_path / "mean", progress=False, **{**more, "training.weight_averaging": 0.9})
    assert not begin_unaveraged(load_recipe(recipe, overrides={**more, **other}), tmp_path / "made", averaged.path)
    assert not (tmp_path / "made").exists()
