"""Classifiers as the Hugging Face Hub has them: a folder of the model, a configuration and a card."""

import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from corral.checkpoints import checkpoint_kind, write_checkpoint
from corral.errors import CorralError, UsageError
from corral.files import check_writable, write_atomically
from corral.models.backbones import BACKBONES, BackboneLike, is_own
from corral.models.card import card, public_name
from corral.models.classifier import Classifier
from corral.models.fingerprint import fingerprint
from corral.models.saved import classifier_metadata, load_classifier
from corral.records import Record
from corral.version import __version__

MODEL, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def save_pretrained(
    model: Classifier,
    folder: str | PathLike[str],
    *,
    record: Record | Sequence[Record] = (),
    name: str | None = None,
    license: str | None = None,
    image_shape: tuple[int, int, int] | None = None,
) -> Path:
    """Write a classifier to a folder: model.safetensors, config.json, and README.md, its card.

    Args:
        model: a classifier that `Classifier.save` takes.
        folder: made where there is none; a run is never written over.
        record: one or several of its evaluations, which the card states; without any it says that nothing was measured.
        name: what the card calls it; default the folder's.
        license: as the Hub names it, such as "mit".
        image_shape: (channels, H, W), where the classifier takes images of any size.

    Returns:
        The folder.

    Raises:
        UsageError: a record of another model, a folder that holds a run, or a classifier that could not be read again.
        CorralError: a file cannot be written.
    """
    place = Path(folder)
    if (place / MODEL).exists() and checkpoint_kind(place / MODEL) != "classifier":
        raise UsageError(f"{place}: holds another model, such as a run's; choose another folder")
    records, weights = ((record,) if isinstance(record, Record) else tuple(record)), fingerprint(model)
    for one in records:
        if one.model_fingerprint != weights:
            raise UsageError(
                f"record of {one.run}: of a model with fingerprint {one.model_fingerprint}, this one has {weights}; "
                "evaluate this model"
            )
    metadata = classifier_metadata(model, image_shape)
    known = is_own(BACKBONES.find(metadata["spec"]["backbone"]["name"], code=False))
    # The paths of whoever saves it are nobody's business.
    metadata["spec"]["backbone"]["name"] = public_name(metadata["spec"]["backbone"]["name"])
    called = name or place.resolve().name
    described = {
        "library_name": "corral",
        "corral_version": __version__,
        "format": "corral-classifier-1",
        "needs_backbone": not known,
        "fingerprint": weights,
        "classes": metadata["classes"],
        **metadata["spec"],
    }
    parameters = sum(one.numel() for one in model.parameters())
    text = card(called, described, parameters=parameters, records=records, licence=license)
    for file in (MODEL, CONFIG, CARD):
        check_writable(place / file)
    write_checkpoint(place / MODEL, model.state_dict(), metadata)
    write_atomically(place / CONFIG, (json.dumps(described, indent=2) + "\n").encode())
    write_atomically(place / CARD, text.encode())
    return place


def push_to_hub(
    model: Classifier,
    repo_id: str,
    *,
    record: Record | Sequence[Record] = (),
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    license: str | None = None,
    image_shape: tuple[int, int, int] | None = None,
    message: str = "Upload a classifier of corral",
) -> str:
    """Write a classifier as `save_pretrained` does and upload the folder; a repository that there is not is made.

    Args:
        model: as `save_pretrained` takes it, and so `record`, `license` and `image_shape`.
        repo_id: "user/name".
        private: whether a new repository is.
        revision: the branch to commit to; default the main one.
        token: of the Hub; default the one that `hf auth login` stored.
        message: of the commit.

    Returns:
        The address of the repository.

    Raises:
        UsageError: huggingface_hub is not installed, or what `save_pretrained` refuses.
        CorralError: the Hub cannot be reached or refuses.
    """
    hub = _hub()
    with tempfile.TemporaryDirectory() as scratch:
        folder = save_pretrained(
            model, Path(scratch) / "model", record=record, name=repo_id, license=license, image_shape=image_shape
        )
        with _refusals(repo_id):
            api = hub.HfApi(token=token, library_name="corral", library_version=__version__)
            address = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=address.repo_id, folder_path=folder, revision=revision, commit_message=message)
    return str(address)


def from_pretrained(
    source: str | PathLike[str],
    *,
    backbone: BackboneLike | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    device: torch.device | str = "cpu",
) -> Classifier:
    """Read what `save_pretrained` or `push_to_hub` wrote: in eval mode. No code of a repository is run, no pickle read.

    Args:
        source: a folder, or a repository of the Hub, "user/name", of which model.safetensors is fetched alone.
        backbone: its own, where it is not corral's; as `corral.load` takes it.
        revision: branch, tag or commit of the repository; name a commit where the weights must not change.
        token: of the Hub; default the one that `hf auth login` stored.
        device: where the classifier goes.

    Raises:
        UsageError: neither a folder nor the name of a repository, or huggingface_hub is not installed.
        CorralError: no such repository, no model in it, a damaged or foreign file, or a backbone that is unknown here.
    """
    place = Path(source)
    if place.is_dir():
        if revision is not None:
            raise UsageError(f"{source}: a folder has no revisions: leave revision out")
        if not (place / MODEL).is_file():
            raise UsageError(f"{source}: no {MODEL} in this folder; give one of save_pretrained, or a run")
        return load_classifier(place / MODEL, device=device, backbone=backbone)
    if not isinstance(source, str) or REPOSITORY.fullmatch(source) is None:
        raise UsageError(f"{source}: no such folder, and no name of a repository, which is user/name")
    hub = _hub(f"{source} is no folder here, and a repository of the Hub")
    with _refusals(source):
        path = hub.hf_hub_download(
            source, MODEL, revision=revision, token=token, library_name="corral", library_version=__version__
        )
    return load_classifier(path, device=device, backbone=backbone)


def _hub(what: str = "the Hugging Face Hub") -> Any:
    """The client of the Hub.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise UsageError(f"{what} needs huggingface_hub: pip install 'corral[hub]'") from error
    return huggingface_hub


@contextmanager
def _refusals(repo_id: str) -> Iterator[None]:
    """What the client of the Hub raises as one line.

    Raises:
        CorralError: in the words of the Hub.
    """
    try:
        yield
    except CorralError:
        raise
    except Exception as error:  # foreign code: the client's own errors and those of the HTTP library below it
        words = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise CorralError(
            f"{repo_id}: the Hub refused or was not reached ({type(error).__name__}: {words}); see that the name, the "
            "revision and the token are right"
        ) from error
