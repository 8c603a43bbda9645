"""What a record states, as far as lists of runs show it, read without torch."""

from dataclasses import dataclass, field
from pathlib import Path

from corral.cli.headers import read_document
from corral.errors import CorralError


@dataclass(frozen=True)
class RecordFacts:
    """What a record states of its accuracies, as fractions, or why it cannot be read."""

    file: str
    problem: str | None = None
    protocol: str = ""
    n: int = 0
    n_test: int = 0
    norm: str = ""
    eps: float = 0.0
    run: str = ""
    data: str = ""
    clean: float = 0.0
    attacks: dict[str, float] = field(default_factory=dict)
    created: str = ""
    model_fingerprint: str = ""

    @property
    def lowest(self) -> float:
        """The accuracy under the attack that leaves the least; an ensemble's row counts images, so it is the least."""
        return min(self.attacks.values(), default=self.clean)


def read_facts(path: Path) -> RecordFacts:
    """What a record states; a damaged one has a `problem`."""
    try:
        content = read_document(path, kind="record")
    except CorralError as error:
        return RecordFacts(path.name, str(error))
    try:
        return RecordFacts(
            path.name,
            protocol=str(content.get("protocol", "quick")),
            run=str(content["run"]),
            data=str(content["data"]),
            n=int(content["n"]),
            n_test=int(content["n_test"]),
            norm=str(content["norm"]),
            eps=float(content["eps"]),
            clean=float(content["clean"]),
            attacks={str(one["name"]): float(one["accuracy"]) for one in content["attacks"]},
            created=str(content["created"]),
            model_fingerprint=str(content["model_fingerprint"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return RecordFacts(path.name, f"{path}: not a corral record ({error})")
