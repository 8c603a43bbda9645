"""Training methods by name, one file each."""

from corral.training.methods.at import AdversarialTraining
from corral.training.methods.base import Context, Method
from corral.training.methods.clustr import ClusTR
from corral.training.methods.corral import Corral
from corral.training.methods.nominal import Nominal
from corral.training.recipe import AtConfig, CorralConfig, MagnetConfig, NominalConfig


def build_method(config: NominalConfig | AtConfig | MagnetConfig | CorralConfig, context: Context) -> Method:
    """The method that a recipe's `method` table describes."""
    match config:
        case NominalConfig():
            return Nominal(context)
        case AtConfig():
            return AdversarialTraining(context, config)
        case MagnetConfig():
            return ClusTR(context, config)
        case CorralConfig():
            return Corral(context, config)


__all__ = ["Context", "Method", "Nominal", "build_method"]
