"""Trained weights to begin from: the backbone of any corral checkpoint, or of a plain safetensors file."""

from corral.checkpoints import load_tensors, read_tensors, unprefixed
from corral.errors import CorralError, UsageError
from corral.files import AnyPath
from corral.models import Classifier
from corral.models.backbones import Adapted
from corral.training.run import Run
from corral.zoo import located

BACKBONE, NORMALISATION = "backbone.", "normalisation."
REMEDY = "training.start needs weights of the recipe's own backbone"


def begin_from(model: Classifier, start: AnyPath, *, normalised: bool = False) -> None:
    """Give a classifier's backbone trained weights; its head and its normalisation stay its own.

    Args:
        model: the classifier, of the same backbone and image shape as the weights.
        start: a run folder or a model that comes with corral, a run's model.safetensors or checkpoint (not an
            encoder's, which holds several networks), or a safetensors file whose names are the backbone's, with or
            without "backbone." before them. Floats of another precision are converted; nothing is unpickled.
        normalised: take the normalisation too, where the file has one, for features of an encoder.

    Raises:
        UsageError: no such file, or a folder without a finished run.
        CorralError: an encoder's checkpoint, no safetensors file, or a tensor that is
            missing, unexpected, not finite or of another shape; one line naming file, tensor and remedy.
    """
    path = located(start)
    if path.is_dir():
        path = Run(path).model_file
        if not path.is_file():
            raise UsageError(f"{start}: no model.safetensors in this folder for training.start; finish that run first")
    elif not path.is_file():
        raise UsageError(f"{path}: no such file; training.start takes a run folder or a safetensors file")
    tensors, metadata = read_tensors(path)
    if isinstance(metadata, dict) and metadata.get("kind") == "training":
        if any(".adversarial." in name or name.startswith("method.target.") for name in tensors):
            raise CorralError(
                f"{path}: of an encoder in training, with two BatchNorms a layer or a target network beside "
                "them; finish that run, and let training.start name its folder"
            )
        tensors = unprefixed(tensors, "model.")
    if normalised and (found := unprefixed(tensors, NORMALISATION)):
        load_tensors(model.normalisation, found, path, remedy=REMEDY)
    if any(name.startswith(BACKBONE) for name in tensors):
        tensors = unprefixed(tensors, BACKBONE)
    backbone = model.backbone
    if isinstance(backbone, Adapted) and not any(name.startswith("net.") for name in tensors):
        backbone = backbone.net  # type: ignore[assignment]  # a file of the network itself
    own = backbone.state_dict()
    ready = {
        name: tensor.to(own[name].dtype)
        if name in own and own[name].is_floating_point() and tensor.is_floating_point()
        else tensor
        for name, tensor in tensors.items()
    }
    load_tensors(backbone, ready, path, remedy=REMEDY)
