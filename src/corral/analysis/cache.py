"""Analyses of a run on disk: made once, and again where they are not of its weights."""

import time
from collections.abc import Collection
from functools import cached_property
from pathlib import Path

import torch

from corral.analysis.document import Analysis, read_analysis
from corral.analysis.registry import ANALYSES, AnalysisKind
from corral.analysis.subject import AnalysedModel, measured_run
from corral.data import AnyData
from corral.documents import write_document
from corral.files import AnyPath
from corral.models.fingerprint import fingerprint
from corral.progress import Progress, duration
from corral.training import load_model


class AnalysisCache:
    """The analyses of one run, in its `analyses` folder.

    Args:
        run: the run folder.
        n: class-balanced test images; None for all.
        seed: of the random numbers; stands in the files' names where it is not 0.
        data: where the run's data lie now, or the data; default as the run recorded them.
        data_root: folder of the data-set files.
        device: where to run.
        progress: say what was made.

    Raises:
        CorralError: no finished run, or damaged files.
        UsageError: an impossible n.
    """

    def __init__(
        self,
        run: AnyPath,
        *,
        n: int | None,
        seed: int = 0,
        data: AnyData | None = None,
        data_root: str | Path | None = None,
        device: torch.device | str = "cpu",
        progress: bool = True,
    ) -> None:
        self.run, self.n, self.seed, self.progress = Path(run), n, seed, progress
        self.data, self.data_root, self.device = data, data_root, device

    @cached_property
    def subject(self) -> AnalysedModel:
        """The run and the images, loaded when first asked for."""
        return measured_run(
            self.run, n=self.n, seed=self.seed, data=self.data, data_root=self.data_root, device=self.device
        )

    @cached_property
    def fingerprint(self) -> str:
        """Of the run's weights."""
        return fingerprint(load_model(self.run)[0])

    def analysis(self, name: str, *, overwrite: bool = False, needs: Collection[str] = ()) -> Analysis:
        """The analysis: the one on disk if it is of these weights, else made and written now.

        Args:
            name: which.
            overwrite: make it now in any case.
            needs: numbers without which the one on disk, of an earlier version, is made again.

        Raises:
            UsageError: the run is not of the kind that it needs.
            CorralError: a damaged file, or one that cannot be written.
        """
        stored = None if overwrite else self.stored(name, needs=needs)
        if stored is not None:
            return stored
        kind = ANALYSES[name]
        path = analysis_file(self.run, kind.name, self.n, self.seed)
        return made_analysis(kind, self.subject, path, where=str(self.run), progress=self.progress)

    def stored(self, name: str, *, needs: Collection[str] = ()) -> Analysis | None:
        """The analysis on disk if it is of these weights and has the numbers `needs`.

        Args:
            name: of the analysis.
            needs: names of numbers that it must have.

        Raises:
            CorralError: a damaged file.
        """
        kind = ANALYSES[name]
        paths = [analysis_file(self.run, one, self.n, self.seed) for one in (kind.name, *kind.earlier)]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            return None
        found = read_analysis(path)
        whole = found.numbers.keys() | found.absent.keys() >= set(needs)
        return found if whole and found.model_fingerprint == self.fingerprint else None


def analysis_file(place: Path, name: str, n: int | None, seed: int) -> Path:
    """Where an analysis of n images (None for all) lies in a folder."""
    suffix = ("" if n is None else f"-n{n}") + (f"-seed{seed}" if seed else "")
    return place / "analyses" / f"{name}{suffix}.json"


def made_analysis(
    kind: AnalysisKind, subject: AnalysedModel, path: Path | None, *, where: str, progress: bool
) -> Analysis:
    """An analysis made now, written where there is a path, and said to be made.

    Raises:
        UsageError: the model is not of the kind that it needs.
        CorralError: a file that cannot be written.
    """
    begun = time.perf_counter()
    made = kind(subject)
    made = made.model_copy(update={"seconds": time.perf_counter() - begun})
    made = made if path is None else write_document(made, path)
    Progress("", 0, "", enabled=progress).say(f"{where}: analysis {kind.name!r} in {duration(made.seconds)}")
    return made
