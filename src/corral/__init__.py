"""corral: image classifiers whose decision is a cluster: trained, attacked, certified and reported."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from corral.version import __version__

if TYPE_CHECKING:
    from corral import attacks, data, geometry, losses, models
    from corral.analysis.analyze import analyze
    from corral.api import export, load
    from corral.audit.audit import audit
    from corral.audit.diagnostics import diagnose
    from corral.checksums import accept_edited
    from corral.clustering import cluster
    from corral.evaluation import evaluate
    from corral.evaluation.certification import certify_run
    from corral.evaluation.certification import certify_run as certify
    from corral.models import Classifier, Head
    from corral.papers import reproduce
    from corral.register import register
    from corral.report import report
    from corral.report.leaderboard import compare
    from corral.training import Run, train
    from corral.training.methods import Method

__all__ = [
    "Classifier",
    "Head",
    "Method",
    "Run",
    "__version__",
    "accept_edited",
    "analyze",
    "attacks",
    "audit",
    "certify",
    "certify_run",
    "cluster",
    "compare",
    "data",
    "diagnose",
    "evaluate",
    "export",
    "geometry",
    "load",
    "losses",
    "models",
    "register",
    "report",
    "reproduce",
    "train",
]
# Where the public names are that are no modules. They are imported at their first use, for torch takes seconds, which
# `corral --help` and the shell's completion would take too.
_HOMES = {
    "Classifier": "corral.models",
    "Head": "corral.models",
    "Method": "corral.training.methods",
    "accept_edited": "corral.checksums",
    "analyze": "corral.analysis.analyze",
    "certify_run": "corral.evaluation.certification",
    "cluster": "corral.clustering",
    "compare": "corral.report.leaderboard",
    "diagnose": "corral.audit.diagnostics",
    "evaluate": "corral.evaluation",
    "export": "corral.api",
    "load": "corral.api",
    "register": "corral.register",
    "reproduce": "corral.papers",
    "Run": "corral.training",
    "train": "corral.training",
}
# Verbs whose names are packages too, with the function that each calls. Such a package can be called, so that
# `corral.certify(run)` and `corral.certify.nearest_radius`, `corral.report(runs, out=...)` and `import corral.report`
# all work, whatever was imported before. The other way, a function in the package's place, would break programs that
# import the package. Type checkers see the function: `from corral.certify import nearest_radius` is typed as well.
_VERBS = {
    "audit": ("corral.audit.audit", "audit"),
    "certify": ("corral.evaluation.certification", "certify_run"),
    "report": ("corral.report", "report"),
}


class _Verb(ModuleType):
    """A package that is a function too; its signature and its documentation are the function's."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)

    @property
    def __wrapped__(self) -> Any:
        home, name = _VERBS[self.__name__.rpartition(".")[2]]
        return vars(import_module(home))[name]

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return str(self.__wrapped__.__doc__)

    def __reduce__(self) -> Any:
        return import_module, (self.__name__,)


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
        return sorted(__all__)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _VERBS and isinstance(value, ModuleType):
            value.__class__ = _Verb
        # `import corral.register` would put the module where the object `corral.register` belongs.
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
