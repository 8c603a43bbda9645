import pytest

from corral.training import train

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

    def run(recipe, out="run", *, resume=False, **overrides):
        return train(recipe, out=tmp_path / out, resume=resume, progress=False, **(TINY | overrides))

    return run
