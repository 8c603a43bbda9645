"""corral: image classifiers whose decision is a cluster: trained, attacked, certified and reported."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from corral.version import __version__

if TYPE_CHECKING:
    from corral import attacks, certify, data, geometry, losses, models
    from corral.api import load
    from corral.audit.audit import audit
    from corral.audit.diagnostics import diagnose
    from corral.checksums import accept_edited
    from corral.evaluation import evaluate
    from corral.evaluation.certification import certify_run
    from corral.models import Head
    from corral.register import register
    from corral.report import report
    from corral.training import train
    from corral.training.methods import Method

__all__ = [
    "Head",
    "Method",
    "__version__",
    "accept_edited",
    "attacks",
    "audit",
    "certify",
    "certify_run",
    "data",
    "diagnose",
    "evaluate",
    "geometry",
    "load",
    "losses",
    "models",
    "register",
    "report",
    "train",
]
# Where the public names are that are no modules. They are imported at their first use, for torch takes seconds, which
# `corral --help` and the shell's completion would take too.
_HOMES = {
    "Head": "corral.models",
    "Method": "corral.training.methods",
    "accept_edited": "corral.checksums",
    "audit": "corral.audit.audit",
    "certify_run": "corral.evaluation.certification",
    "diagnose": "corral.audit.diagnostics",
    "evaluate": "corral.evaluation",
    "load": "corral.api",
    "register": "corral.register",
    "report": "corral.report",
    "train": "corral.training",
}


class _Package(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name in _HOMES:
            found = getattr(import_module(_HOMES[name]), name)
            setattr(self, name, found)
            return found
        try:
            return import_module(f"corral.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"corral.{name}":
                raise
            raise AttributeError(f"module 'corral' has no attribute {name!r}") from None

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})

    def __setattr__(self, name: str, value: Any) -> None:
        # `import corral.report.words` would put the package where the function `corral.report` belongs.
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
