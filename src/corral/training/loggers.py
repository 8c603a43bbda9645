"""Where the numbers of each epoch go besides metrics.jsonl: TensorBoard, Weights & Biases, MLflow, or any function."""

import importlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corral.errors import CorralError, UsageError
from corral.files import write_atomically
from corral.reading import MOST_TEXT, parse_json, read_bytes
from corral.registry import Registry

# Called after each epoch with its number, from 1, and its numbers by name.
Logger = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Logged:
    """A run as a logger sees it when it opens.

    Attributes:
        folder: the run folder.
        settings: the recipe, as plain values.
        first_epoch: the first epoch that will be logged; above 1 where the run is resumed.
    """

    folder: Path
    settings: Mapping[str, Any]
    first_epoch: int

    def kept_id(self, service: str) -> str | None:
        """What a service called this run when it was begun; None for a run that begins now."""
        path = self.folder / f"{service}.json"
        if self.first_epoch == 1 or not path.is_file():
            return None
        try:
            return str(parse_json(read_bytes(path, remedy="delete it to log to a new one", most=MOST_TEXT))["id"])
        except (ValueError, KeyError, TypeError) as error:
            raise CorralError(f"{path}: does not hold this run's id; delete it to log to a new one") from error

    def keep_id(self, service: str, run_id: str) -> None:
        """Remember what a service calls this run, so that a resumed run goes on there."""
        write_atomically(self.folder / f"{service}.json", json.dumps({"id": run_id}).encode())


@dataclass(frozen=True)
class LoggerKind:
    """How a logger is opened.

    Attributes:
        open: opens it for a run; closes it when the run ends or breaks off.
        package: that it needs, and the extra of corral of that name; None for none.
        module: of the package, imported only when the logger is asked for.
    """

    open: Callable[[Logged], AbstractContextManager[Logger]]
    package: str | None = None
    module: str | None = None

    @property
    def installed(self) -> bool:
        """Whether what it needs can be imported."""
        try:
            importlib.import_module(self.module or "corral")
        except ImportError:
            return False
        return True


def as_kind(thing: object) -> LoggerKind:
    """A function of (epoch, numbers) as a logger; a LoggerKind as it is.

    Raises:
        TypeError: it cannot be called.
    """
    if isinstance(thing, LoggerKind):
        return thing
    if not callable(thing):
        raise TypeError(f"it should be a function of (epoch, numbers), found {type(thing).__name__}")
    return LoggerKind(open=lambda _: nullcontext(thing))


LOGGERS: Registry[LoggerKind] = Registry("logger", group="corral.loggers", check=as_kind)


def find_loggers(asked: Sequence[str | Logger] | None) -> list[LoggerKind]:
    """The loggers that were asked for, by name, by "file.py:function" or as functions; None: TensorBoard if installed.

    Raises:
        UsageError: an unknown name, something that cannot be called, or a package that is not installed.
    """
    if asked is None:
        return [kind for kind in (LOGGERS["tensorboard"],) if kind.installed]
    kinds = []
    for name in asked:
        try:
            kind = LOGGERS.find(name) if isinstance(name, str) else as_kind(name)
        except TypeError as error:
            raise UsageError(f"loggers: {error}") from error
        if not kind.installed:
            raise UsageError(
                f"logger {name!r} needs the package {kind.package}: pip install 'corral[{kind.package}]'; "
                "metrics.jsonl has every epoch's numbers without it"
            )
        kinds.append(kind)
    return kinds


@contextmanager
def opened(kinds: Sequence[LoggerKind], run: Logged) -> Iterator[Callable[[Mapping[str, Any], int], None]]:
    """Open loggers for a run; yields the function that gives them an epoch's numbers."""
    with ExitStack() as stack:
        loggers = [stack.enter_context(kind.open(run)) for kind in kinds]

        def log(entry: Mapping[str, Any], epoch: int) -> None:
            numbers = {
                name: float(value)
                for name, value in entry.items()
                if name != "epoch" and isinstance(value, int | float) and not isinstance(value, bool)
            }
            for logger in loggers:
                logger(epoch, dict(numbers))

        yield log


@contextmanager
def tensorboard(run: Logged) -> Iterator[Logger]:
    """TensorBoard's event files in the run folder; what an interrupted run wrote beyond its checkpoint is purged.

    Raises:
        CorralError: the folder cannot be written.
    """
    from torch.utils.tensorboard import SummaryWriter

    folder = run.folder / "tensorboard"
    with _no_trace_of_a_full_disk():
        with _in_one_line(folder):
            writer: Any = SummaryWriter(folder, purge_step=run.first_epoch)

        def log(epoch: int, numbers: dict[str, float]) -> None:
            with _in_one_line(folder):
                for name, value in numbers.items():
                    writer.add_scalar(name, value, epoch)
                writer.flush()

        try:
            yield log
        except BaseException:
            with suppress(OSError):  # the first failure is the one that is raised
                writer.close()
            raise
        with _in_one_line(folder):
            writer.close()


@contextmanager
def _in_one_line(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise CorralError(
            f"{folder}: cannot be written ({reason}); free some space and continue with --resume"
        ) from error


@contextmanager
def _no_trace_of_a_full_disk() -> Iterator[None]:
    """In the block no thread prints an OSError's trace: the writer's would, of an error that its caller raises too."""
    hook = threading.excepthook
    threading.excepthook = lambda failed: None if isinstance(failed.exc_value, OSError) else hook(failed)
    try:
        yield
    finally:
        threading.excepthook = hook


@contextmanager
def wandb(run: Logged) -> Iterator[Logger]:
    """A run of Weights & Biases, in the project that WANDB_PROJECT names or "corral"; a resumed run goes on there."""
    service = importlib.import_module("wandb")
    kept = run.kept_id("wandb")
    there = service.init(
        project=None if os.environ.get("WANDB_PROJECT") else "corral",
        name=run.folder.resolve().name,
        dir=str(run.folder),
        config=dict(run.settings),
        id=kept,
        resume="allow" if kept else None,
    )
    run.keep_id("wandb", there.id)
    try:
        yield lambda epoch, numbers: there.log(numbers, step=epoch)
    except BaseException:
        there.finish(exit_code=1)
        raise
    there.finish()


@contextmanager
def mlflow(run: Logged) -> Iterator[Logger]:
    """A run of MLflow, in the experiment that its own environment variables name; a resumed run goes on there."""
    service = importlib.import_module("mlflow")
    kept = run.kept_id("mlflow")
    there = service.start_run(run_id=kept, run_name=None if kept else run.folder.resolve().name)
    run.keep_id("mlflow", there.info.run_id)
    if kept is None:
        service.log_params(dict(_flat(run.settings)))
    try:
        yield lambda epoch, numbers: service.log_metrics(numbers, step=epoch)
    except BaseException:
        service.end_run("FAILED")
        raise
    service.end_run()


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as "training.epochs" and its value."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


LOGGERS.add("tensorboard", LoggerKind(tensorboard, "tensorboard", "torch.utils.tensorboard"))
LOGGERS.add("wandb", LoggerKind(wandb, "wandb", "wandb"))
LOGGERS.add("mlflow", LoggerKind(mlflow, "mlflow", "mlflow"))
