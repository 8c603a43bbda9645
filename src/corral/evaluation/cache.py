"""What an evaluation has finished so far: a folder of one file a batch, with the plan that they belong to."""

import io
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from pydantic import Field

from corral.attacks.engine import Batch
from corral.errors import CorralError
from corral.files import write_atomically
from corral.reading import MOST_TEXT, parse_json, read_arrays, read_bytes
from corral.strict import Frozen


class PlannedAttack(Frozen):
    """An attack as the plan has it: equal name and settings, equal results."""

    name: str
    settings: dict[str, int | float | str | bool]


class EvaluationPlan(Frozen):
    """Everything that decides an evaluation's results: finished batches of another plan are never mixed in."""

    protocol: str
    model: str
    data: str
    norm: str
    eps: float
    n: int
    seed: int
    batch_size: int
    attacks: list[PlannedAttack]
    inputs: list[str] = Field(default_factory=list)
    device: str
    corral: str
    torch: str


class EvaluationCache:
    """The finished batches of one evaluation; every one is written whole, at once, or not at all.

    Args:
        folder: where the batches lie; made if need be, taken up again if it is there.
        plan: of this evaluation.
        overwrite: begin anew, whatever lies there.

    Raises:
        CorralError: the folder holds batches of another plan (the message says what differs), or cannot be read.
    """

    def __init__(self, folder: Path, plan: EvaluationPlan, *, overwrite: bool = False) -> None:
        self.folder = folder
        if overwrite:
            self.close()
        held = folder / "plan.json"
        if held.is_file():
            self._refuse_other(held, plan)
        else:
            # Without a plan, files there are a remainder of a kill before the first batch: nothing to lose.
            self.close()
            write_atomically(held, (plan.model_dump_json(indent=2) + "\n").encode())

    def _refuse_other(self, held: Path, plan: EvaluationPlan) -> None:
        remedy = "give --overwrite to throw away what is finished and begin anew"
        try:
            found = EvaluationPlan.model_validate(parse_json(read_bytes(held, remedy=remedy, most=MOST_TEXT)))
        except ValueError as error:  # pydantic's are too
            raise CorralError(f"{held}: not the plan of an evaluation ({type(error).__name__}); {remedy}") from error
        for name in EvaluationPlan.model_fields:
            before, now = getattr(found, name), getattr(plan, name)
            if before != now:
                if name == "attacks":
                    before, now = (_listed(attacks) for attacks in (before, now))
                raise CorralError(
                    f"{self.folder}: an unfinished evaluation with another {name}: there {before}, now {now}; "
                    f"restore it to go on, or {remedy}"
                )

    def read(self, key: str, number: int) -> Batch | None:
        """A finished batch of an attack, None if it is not finished; CorralError for a damaged file."""
        path = self._path(key, number)
        if not path.is_file():
            return None
        remedy = "delete it to attack that batch again"
        try:
            held = read_arrays(path, kind="a finished batch", remedy=remedy)
            return Batch(
                correct=held["correct"],
                step=held["step"],
                shown=held["shown"],
                seconds=float(held["seconds"]),
                forwards=int(held["forwards"]),
                backwards=int(held["backwards"]),
            )
        except (KeyError, ValueError, TypeError) as error:
            raise CorralError(f"{path}: not a finished batch ({error}); {remedy}") from error

    def write(self, key: str, number: int, batch: Batch) -> None:
        """Keep a finished batch; CorralError where the disk is full or the folder cannot be written."""
        stream = io.BytesIO()
        named: dict[str, Any] = vars(batch)
        np.savez(stream, **named)
        write_atomically(self._path(key, number), stream.getvalue())

    def close(self) -> None:
        """Forget all batches: the record that they made has been written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, key: str, number: int) -> Path:
        return self.folder / f"{quote(key, safe='')}-{number:05d}.npz"


def _listed(attacks: list[PlannedAttack]) -> str:
    return "; ".join(
        f"{attack.name} ({', '.join(f'{key} {value}' for key, value in attack.settings.items())})" for attack in attacks
    )
