"""A training of two processes that ends after its first epoch: `halved.py FOLDER`."""

import os
import sys
from pathlib import Path


def leave(epoch: int, numbers: dict[str, float]) -> None:
    """Leave after the first epoch, which was saved."""
    os._exit(1)


if __name__ == "__main__":
    from tests.distributed import trainings

    import corral

    recipe, settings = trainings.TRAININGS["corral"]
    corral.train(recipe, data="digits", out=Path(sys.argv[1]), progress=False, loggers=[leave], **settings)
