"""Small trained models that come with the package, by name: `corral.load("corral/digits-at")`.

Each is a run folder beside this file: weights, recipe, records, and a card with data, threat, results and limits.
"""

from pathlib import Path

from corral.errors import UsageError
from corral.files import AnyPath, user_path

FOLDER, PREFIX = Path(__file__).parent, "corral"


def names() -> tuple[str, ...]:
    """The names of the models, such as "corral/digits-at"."""
    return tuple(sorted(f"{PREFIX}/{path.parent.name}" for path in FOLDER.glob("*/model.safetensors")))


def is_shipped(run: AnyPath) -> bool:
    """Whether a name means a model of the package: a folder or file of this name goes before it."""
    return Path(run).as_posix() in names() and not user_path(run).exists()


def located(run: AnyPath) -> Path:
    """Where a run lies: the package's own folder for the name of its model, else the path as it was given.

    Raises:
        UsageError: a name of this form that is neither a path nor a model.
    """
    path = Path(run)
    if is_shipped(path):
        return FOLDER / path.name
    if path.parts[:1] == (PREFIX,) and len(path.parts) == 2 and not path.exists():
        raise UsageError(f"{path.as_posix()}: no such run, and the models of corral are {', '.join(names())}")
    return path
