"""`corral.load` and `corral.export`: a run as a classifier, and as a file that needs no corral."""

from pathlib import Path

import torch

from corral.errors import UsageError
from corral.files import AnyPath
from corral.models import Classifier
from corral.models.backbones import BackboneLike
from corral.models.export import Format, export_classifier
from corral.training import load_model
from corral.zoo import is_shipped


def load(run: AnyPath, *, device: str | torch.device = "cpu", backbone: BackboneLike | None = None) -> Classifier:
    """The classifier of a finished run, in eval mode: float [0, 1] NCHW images in, (N, C) logits out.

    Args:
        run: a run folder, its model.safetensors, or a model that comes with corral, such as "corral/digits-at"
            (`corral models` lists them); a folder of that name goes before it.
        device: where the model goes.
        backbone: the run's own, where it was a user's and is not imported here: "file.py:function", a module, or a
            function that makes one. Its weights are replaced by the run's.

    Raises:
        UsageError: no such run.
        CorralError: an unfinished run, a truncated or foreign file, or a backbone that is not known here.
    """
    return load_model(run, device=device, backbone=backbone)[0]


def export(
    model: AnyPath | Classifier,
    out: str | Path | None = None,
    *,
    format: Format | None = None,
    image_size: tuple[int, int] | None = None,
    backbone: BackboneLike | None = None,
) -> Path:
    """Write a classifier, in eval mode, to a file that its format's own tools run; corral is not needed to read it.

    Args:
        model: a run folder, its model.safetensors, a model that comes with corral, or a classifier.
        out: the file; ".pt2" means torch.export, ".pt" and ".ts" TorchScript, ".onnx" ONNX. Default RUN/model.pt2 of a
            run of yours.
        format: in the place of what the ending means.
        image_size: (H, W) where the classifier takes any; default a run's own.
        backbone: of a run whose own is a user's, as `load` takes it.

    Returns:
        The path. Images are (N, channels, H, W) floats in [0, 1], N free; the output is (N, C) logits.

    Raises:
        UsageError: no such run, no `out` for what is no run of yours, a format that is not known, or packages that it
            needs and that are not installed.
        CorralError: an unfinished run, or a model that cannot be written in this format.
    """
    if out is None and (isinstance(model, Classifier) or is_shipped(model)):
        raise UsageError("export of a classifier needs out, the file, such as model.pt2 or model.onnx")
    if isinstance(model, Classifier):
        assert out is not None
        return export_classifier(model, out, format=format, image_size=image_size)
    classifier, spec, _ = load_model(model, backbone=backbone)
    place = Path(model) if Path(model).is_dir() else Path(model).parent
    size = spec.image_shape[1:] if image_size is None else image_size
    return export_classifier(classifier, out or place / "model.pt2", format=format, image_size=size)
