"""What tests of training methods share."""

from contextlib import contextmanager

import pytest
import torch

from corral.training import Run, Training, load_recipe, train

# One warm and two main epochs of four batches each, on 200 digits.
TINY = {
    "data.train": 200,
    "model.width": 4,
    "model.features": 16,
    "training.batch_size": 50,
    "training.epochs": 2,
    "training.warm_start.epochs": 1,
}


@pytest.fixture
def tiny(tmp_path):
    """Trains a recipe at toy size into tmp_path / out and returns the folder."""

    def run(recipe, out="run", *, resume=False, progress=False, **overrides):
        return train(recipe, out=tmp_path / out, resume=resume, progress=progress, **(TINY | overrides))

    return run


@pytest.fixture
def begun(tmp_path):
    """A run whose method has started: weights still random, clusters, where it has any, fitted."""

    def make(recipe, **overrides):
        tiny = {"data.train": 120, "model.width": 4, "model.features": 8, "warm_start.epochs": 0}
        resolved = load_recipe(recipe, overrides=tiny | overrides)
        run = Training(resolved, Run(tmp_path / "run"), torch.device("cpu"), progress=False)
        run.begin(resume=False)
        run.model.train()
        return run

    return make


@pytest.fixture
def killed(monkeypatch):
    """Ends the runs that are trained in its block in their second epoch, as Ctrl-C does."""

    @contextmanager
    def inside():
        calls, epoch = [], Training._epoch

        def stopped(self, bar):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return epoch(self, bar)

        with monkeypatch.context() as patch:
            patch.setattr(Training, "_epoch", stopped)
            with pytest.raises(KeyboardInterrupt):
                yield

    return inside
