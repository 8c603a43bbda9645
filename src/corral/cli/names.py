"""Names that helps list and the shell completes, without importing what has them.

A test compares them with the registries. Names of installed packages come from their entry points alone; where a plugin
is named (`--plugin`, CORRAL_PLUGINS), the registries are asked, which takes seconds.
"""

import os
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import entry_points
from importlib.resources import files

from corral.errors import CorralError
from corral.registry import PLUGINS, Registry, import_plugins

NAMES = {
    "data set": (
        *("cifar10", "cifar100", "digits", "fashion-mnist", "mnist", "stl10", "svhn", "toy-circles", "toy-moons"),
    ),
    "protocol": ("quick", "paper", "centred", "encoder", "standard", "autoattack", "screening", "adaptive"),
    "attack": (
        *("pgd", "pgd_ce", "pgd_cw", "apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "fab_minimal", "square"),
        *("fgsm", "mi-fgsm", "ddn", "deepfool", "carlini_wagner", "screening"),
        *("cross_entropy", "margin", "targeted_dlr", "magnet", "rival_centroids", "mat", "training_loss"),
        *("pgd_published", "pgd_published_log", "pgd_published_100", "pgd_published_100_log"),
        *("pgd_published_100_magnet", "pgd_10", "pgd_10_targeted", "pgd_20", "pgd_50", "pgd_50_targeted"),
        *("pgd_50_training", "pgd_50_mmc", "pgd_50_cosine", "pgd_50_length_10", "pgd_50_length_3", "pgd_50_length_1"),
    ),
    "analysis": (
        *("embedding", "match", "cosine", "compactness", "norms", "features", "bounds"),  # in the order of a page
        *("adversary", "cluster_attack", "gradient_norms", "protocol_ablation", "radii", "silhouettes"),
    ),
    "logger": ("tensorboard", "wandb", "mlflow"),
}
# Where the registry of each noun is.
REGISTRIES = {
    "data set": ("corral.data.registry", "DATA_SETS", "corral.data"),
    "protocol": ("corral.attacks.protocols", "PROTOCOLS", "corral.protocols"),
    "attack": ("corral.attacks.registry", "ATTACKS", "corral.attacks"),
    "analysis": ("corral.analysis.registry", "ANALYSES", "corral.analyses"),
    "logger": ("corral.training.loggers", "LOGGERS", "corral.loggers"),
}


def known(noun: str, plugins: Iterable[str] = ()) -> list[str]:
    """The names of a noun: "recipe", "table", "data set", "protocol", "attack", "analysis" or "logger".

    Args:
        noun: which.
        plugins: files and modules whose names are wanted too, beside those that CORRAL_PLUGINS names.
    """
    if noun in ("recipe", "table"):
        folder = files("corral") / ("recipes" if noun == "recipe" else "papers/tables")
        return sorted(one.name.removesuffix(".toml") for one in folder.iterdir() if one.name.endswith(".toml"))
    module, attribute, group = REGISTRIES[noun]
    found = [*NAMES[noun], *(entry.name for entry in entry_points(group=group))]
    sources = list(plugins)
    if sources or os.environ.get(PLUGINS):
        try:
            import_plugins(sources)
            registry: Registry[object] = getattr(import_module(module), attribute)
            found += registry.names()
        except CorralError:  # which the command itself says
            pass
    return list(dict.fromkeys(found))
