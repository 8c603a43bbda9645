"""All analyses that fit a run or a classifier, on the same clean and attacked images."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from corral.analysis.cache import AnalysisCache, analysis_file, made_analysis
from corral.analysis.document import Analysis
from corral.analysis.registry import ANALYSES, AnalysisKind
from corral.analysis.subject import AnalysedModel, measured_classifier
from corral.attacks.threat import Threat
from corral.data import AnyData, load
from corral.devices import choose_device
from corral.errors import UsageError
from corral.evaluation.protocols import ThreatLike, as_threat
from corral.evaluation.subject import AnyModel, alone, is_run, place_of, run_folder
from corral.lock import held
from corral.models import Classifier
from corral.models.backbones import BackboneLike
from corral.models.split import split
from corral.models.statistics import Statistics
from corral.renamed import renamed
from corral.targets import load_target
from corral.targets.outputs import measuring
from corral.training import load_model
from corral.training.recipes.recipe import MOST_SEED
from corral.training.run import bring
from corral.training.start import data_of
from corral.zoo import is_shipped

DEFAULT_IMAGES = 1000


@renamed(fresh="overwrite", run="target")
def analyze(
    target: AnyModel,
    data: AnyData | None = None,
    *,
    threat: ThreatLike | None = None,
    only: Sequence[str] | None = None,
    n: int | None = DEFAULT_IMAGES,
    seed: int = 0,
    overwrite: bool = False,
    out: str | Path | None = None,
    normalise: str | Statistics | None = None,
    path: str | Path | None = None,
    backbone: BackboneLike | None = None,
    data_root: str | Path | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> dict[str, Analysis]:
    """Measure what no attack's accuracy shows of a model's features.

    Of a finished run each analysis is written to `RUN/analyses`; those already there, of the same weights, images and
    seed, are taken as they are. An interrupted call loses the analysis that it was at. Of another model every call
    makes them all: its threat and its images are not the folder's.

    Args:
        target: a run folder; a `Classifier`; or another network as `evaluate` takes it, whose last linear layer is
            evident (`corral.models.split.split`), so that its features are known.
        data: as `corral.data.load` takes them: the training images are looked at too. Of a run its own, by their
            fingerprint; default where they lay at training.
        threat: ("Linf", 8/255) or the like, of the attacks; of a run the one that it was trained for, and of a model
            that comes with corral by default.
        only: names of analyses; default those with a place on the page that fit the model.
        n: a class-balanced subset of this many test images; None, or more than there are, for the whole test set.
        seed: of the attacks and of t-SNE.
        overwrite: make those of a run all again.
        out: where the documents of another model than a run go, into its folder `analyses`; default nowhere.
        normalise: what another network's inputs are normalised by: "imagenet", "M,M,M/S,S,S" or (means, deviations).
        path: the folder that a target's Python code is imported from.
        backbone: a run's own, where it is yours and not imported here; as `corral.load` takes it.
        data_root: folder of the data-set files.
        device: where to run; default a GPU if there is one.
        progress: say what was made.

    Returns:
        The analyses by name, in the order of a page.

    Raises:
        UsageError: an unknown analysis, or one that does not fit the model; an impossible n or seed; a model without
            data or a threat, or whose features are not known.
        CorralError: no finished run, damaged files, a file that cannot be written, or another process analyses the run.
    """
    asked = {ANALYSES.find(name).name for name in only or ()}
    if not 0 <= seed <= MOST_SEED:
        raise UsageError(f"seed must be from 0 to {MOST_SEED}, found {seed}")
    if isinstance(target, nn.Module) or not is_run(target) or is_shipped(target):
        place = place_of(target, out)
        found = _classifier(target, data, threat, normalise, path, backbone, n, seed, data_root, choose_device(device))
        with alone(place, "analyses", "analyze"):
            return _analysed(found, _chosen(asked, found.model), place, progress)
    if threat is not None or out is not None or normalise is not None:
        raise UsageError(f"{target}: a run is analysed in its own folder, at its own threat: leave the others out")
    folder = run_folder(target)
    with held(folder.path / "analyses", "analyze"):
        bring(folder.path, backbone)
        model, _, info = load_model(folder.path)
        images = data_of(target, info, data=data, root=data_root)
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
        return {kind.name: cache.analysis(kind.name, overwrite=overwrite) for kind in _chosen(asked, model)}


def _chosen(asked: set[str], model: Classifier) -> list[AnalysisKind]:
    """The analyses that were asked for, or all with a place on the page that fit, in its order."""
    kinds = [kind for _, kind in ANALYSES.items()]
    chosen = [k for k in kinds if (k.name in asked if asked else k.page is not None and k.fits(model))]
    return sorted(chosen, key=lambda kind: (kind.page is None, kind.page or 0))


def _classifier(
    target: AnyModel,
    data: AnyData | None,
    threat: ThreatLike | None,
    normalise: str | Statistics | None,
    path: str | Path | None,
    backbone: BackboneLike | None,
    n: int | None,
    seed: int,
    root: str | Path | None,
    device: torch.device,
) -> AnalysedModel:
    """Another model than a run, as a classifier, with its images."""
    named = target if isinstance(target, nn.Module) else str(target)
    loaded = load_target(named, path=path, backbone=backbone, device=device)
    if loaded.info is not None:  # a model that comes with corral
        data = data_of(str(target), loaded.info, data=data, root=root)
        threat = (loaded.info.norm, loaded.info.eps) if threat is None else threat
    if data is None or threat is None:
        raise UsageError(f"{loaded.name}: give data and threat=(norm, eps), such as ('Linf', 8/255) (--norm, --eps)")
    images = load(data, root=root)
    bound: Threat = as_threat(threat, images.test.shape)
    model = split(loaded.model, images.test.shape, normalise=normalise)
    count = None if n is None or n >= len(images.test) else n
    return measured_classifier(model, images, bound, name=loaded.name, n=count, seed=seed, device=device)


def _analysed(
    found: AnalysedModel, kinds: Sequence[AnalysisKind], place: Path | None, progress: bool
) -> dict[str, Analysis]:
    """Make analyses of a model that is given back as it was; write them where there is a place."""
    n, made = len(found.test), {}
    with measuring(found.model, found.test.device):
        for kind in kinds:
            path = None if place is None else analysis_file(place, kind.name, n, found.seed)
            made[kind.name] = made_analysis(kind, found, path, where=found.name, progress=progress)
    return made
