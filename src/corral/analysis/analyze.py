"""All analyses that fit a run, on the same clean and attacked images."""

from collections.abc import Sequence
from pathlib import Path

import torch

from corral.analysis.cache import AnalysisCache
from corral.analysis.document import Analysis
from corral.analysis.registry import ANALYSES
from corral.data import AnyData
from corral.devices import choose_device
from corral.errors import UsageError
from corral.evaluation.loaded_run import run_folder
from corral.lock import held
from corral.renamed import renamed
from corral.training import load_model
from corral.training.recipes.recipe import MOST_SEED
from corral.training.start import data_of

DEFAULT_IMAGES = 1000


@renamed(fresh="overwrite")
def analyze(
    run: str | Path,
    *,
    only: Sequence[str] | None = None,
    n: int | None = DEFAULT_IMAGES,
    seed: int = 0,
    overwrite: bool = False,
    data: AnyData | None = None,
    data_root: str | Path | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> dict[str, Analysis]:
    """Measure what no attack's accuracy shows of a finished run; each analysis is written to `RUN/analyses`.

    Those already there, of the same weights, images and seed, are taken as they are. An interrupted call loses the
    analysis that it was at.

    Args:
        run: the run folder.
        only: names of analyses; default those with a place on the page that fit the run.
        n: a class-balanced subset of this many test images; None, or more than there are, for the whole test set.
        seed: of the attacks and of t-SNE.
        overwrite: make them all again.
        data: where the run's data lie now, or the data themselves, as `corral.data.load` takes them: all of them, the
            training part too, for the images must be the same by their fingerprint. Default where they lay at
            training; a run on data given as an object needs them again.
        data_root: folder of the data-set files.
        device: where to run; default a GPU if there is one.
        progress: say what was made.

    Returns:
        The analyses by name, in the order of a page.

    Raises:
        UsageError: an unknown analysis, or one that does not fit the run; an impossible n or seed.
        CorralError: no finished run, damaged files, a file that cannot be written, or another process analyses the run.
    """
    asked = {ANALYSES.find(name).name for name in only or ()}
    if not 0 <= seed <= MOST_SEED:
        raise UsageError(f"seed must be from 0 to {MOST_SEED}, found {seed}")
    folder = run_folder(run)
    with held(folder.path / "analyses", "analyze"):
        model, _, info = load_model(folder.path)
        images = data_of(run, info, data=data, root=data_root)
        n_test = len(images.test)
        cache = AnalysisCache(
            folder.path,
            n=None if n is None or n >= n_test else n,
            seed=seed,
            data=images,
            data_root=data_root,
            device=choose_device(device),
            progress=progress,
        )
        kinds = [kind for _, kind in ANALYSES.items()]
        chosen = [k for k in kinds if (k.name in asked if asked else k.page is not None and k.fits(model))]
        chosen.sort(key=lambda kind: (kind.page is None, kind.page or 0))
        return {kind.name: cache.analysis(kind.name, overwrite=overwrite) for kind in chosen}
