"""Training methods by name, one file each."""

from corral.training.methods.acl import Acl
from corral.training.methods.advcl import AdvCL
from corral.training.methods.at import AdversarialTraining
from corral.training.methods.base import Context, Method
from corral.training.methods.certified import Certified
from corral.training.methods.clustr import ClusTR
from corral.training.methods.corral import Corral
from corral.training.methods.deacl import DeACL
from corral.training.methods.fitted import FittedClusters
from corral.training.methods.free_at import FreeAdversarialTraining
from corral.training.methods.linear import LinearEvaluation
from corral.training.methods.mat import Mat
from corral.training.methods.mmc import Mmc
from corral.training.methods.ncp_acl import NcpAcl
from corral.training.methods.nominal import Nominal
from corral.training.methods.pseudo_labelled import PseudoLabelled
from corral.training.methods.rocl import RoCL
from corral.training.methods.simclr import SimCLR
from corral.training.methods.trades import Trades
from corral.training.recipe_encoders import (
    AclConfig,
    AdvclConfig,
    DeaclConfig,
    NcpAclConfig,
    PseudoLabelledConfig,
    RoclConfig,
    SimclrConfig,
)
from corral.training.recipe_methods import (
    AtConfig,
    CertifiedConfig,
    CorralConfig,
    FittedConfig,
    FreeAtConfig,
    LinearConfig,
    MagnetConfig,
    MatConfig,
    MethodConfig,
    MmcConfig,
    NominalConfig,
    TradesConfig,
)


def build_method(config: MethodConfig, context: Context) -> Method:
    """The method that a recipe's `method` table describes."""
    match config:
        case NominalConfig():
            return Nominal(context)
        case AtConfig():
            return AdversarialTraining(context, config)
        case FreeAtConfig():
            return FreeAdversarialTraining(context, config)
        case TradesConfig():
            return Trades(context, config)
        case MagnetConfig():
            return ClusTR(context, config)
        case CorralConfig():
            return Corral(context, config)
        case CertifiedConfig():
            return Certified(context, config)
        case MatConfig():
            return Mat(context, config)
        case MmcConfig():
            return Mmc(context, config)
        case SimclrConfig():
            return SimCLR(context, config)
        case DeaclConfig():
            return DeACL(context, config)
        case NcpAclConfig():
            return NcpAcl(context, config)
        case AclConfig():
            return Acl(context, config)
        case RoclConfig():
            return RoCL(context, config)
        case AdvclConfig():
            return AdvCL(context, config)
        case PseudoLabelledConfig():
            return PseudoLabelled(context, config)
        case LinearConfig():
            return LinearEvaluation(context, config)
        case FittedConfig():
            return FittedClusters(context, config)


__all__ = ["Context", "Method", "Nominal", "build_method"]
