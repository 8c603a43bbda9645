"""Training methods by name, one file each."""

from corral.errors import CorralError
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
from corral.training.recipe_base import Config
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

METHOD_CLASSES: dict[type[Config], type[Method]] = {
    NominalConfig: Nominal,
    AtConfig: AdversarialTraining,
    FreeAtConfig: FreeAdversarialTraining,
    TradesConfig: Trades,
    MagnetConfig: ClusTR,
    CorralConfig: Corral,
    CertifiedConfig: Certified,
    MatConfig: Mat,
    MmcConfig: Mmc,
    SimclrConfig: SimCLR,
    DeaclConfig: DeACL,
    NcpAclConfig: NcpAcl,
    AclConfig: Acl,
    RoclConfig: RoCL,
    AdvclConfig: AdvCL,
    PseudoLabelledConfig: PseudoLabelled,
    LinearConfig: LinearEvaluation,
    FittedConfig: FittedClusters,
}
"""The class of every method, by that of its options."""


def method_class(config: Config) -> type[Method]:
    """The class of the method that a recipe's `method` table describes.

    Raises:
        CorralError: options of no known method.
    """
    found = METHOD_CLASSES.get(type(config))
    if found is None:
        raise CorralError(f"no method is known by the options {type(config).__name__}: add it to METHOD_CLASSES")
    return found


def build_method(config: MethodConfig, context: Context) -> Method:
    """The method that a recipe's `method` table describes."""
    return method_class(config)(context, config)


__all__ = ["METHOD_CLASSES", "Context", "Method", "Nominal", "build_method", "method_class"]
