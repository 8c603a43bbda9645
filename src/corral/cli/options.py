"""What the commands share: options, interruption, printing."""

import inspect
import json
import tomllib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corral.cli import signals
from corral.errors import UsageError
from corral.reading import parse_toml
from corral.strict import MOST_WHOLE

if TYPE_CHECKING:
    from corral.evaluation.records import Record

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, for machines.")]
DataRoot = Annotated[Path | None, typer.Option(help="Folder of data-set files; default CORRAL_DATA or a user cache.")]
Images = Annotated[
    int | None, typer.Option(min=1, max=MOST_WHOLE, help="This many test images, class-balanced; default all.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Throw away what an interrupted call finished.")]
RunData = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="Where the run's data lie now: folder:PATH, file.py:function ...; the same images by fingerprint.",
    ),
]
BatchSize = Annotated[int | None, typer.Option(min=1, max=MOST_WHOLE, help="Default 125 on a CPU, else 500.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")]


@dataclass(frozen=True)
class Common:
    """The options of every command that computes."""

    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; default a GPU if there is one.")] = None
    data_root: DataRoot = None
    threads: Annotated[int | None, typer.Option(min=1, max=1024, help="CPU threads; default torch's own choice.")] = (
        None
    )
    quiet: Quiet = False
    as_json: Json = False

    def keywords(self) -> dict[str, Any]:
        """What every function of the library takes of them."""
        return {"device": self.device, "data_root": self.data_root, "progress": not self.quiet}


def with_common(command: Callable[..., None]) -> Callable[..., None]:
    """A decorator: the options of `Common` stand behind a command's own, which gets them as `common`; sets threads."""
    own = [one for one in inspect.signature(command).parameters.values() if one.name != "common"]
    shared = inspect.signature(Common).parameters

    @wraps(command)
    def called(*args: Any, **options: Any) -> None:
        common = Common(**{name: options.pop(name) for name in shared if name in options})
        if common.threads is not None:
            import torch

            torch.set_num_threads(common.threads)
        command(*args, common=common, **options)

    parameters = [*own, *shared.values()]
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {one.name: one.annotation for one in parameters}
    return called


@contextmanager
def interruptible(kept: str | Callable[[], str]) -> Iterator[None]:
    """End the command on Ctrl-C, SIGTERM or SIGHUP with its code and a line that says what is kept, also by a call."""

    def words() -> str:
        return kept if isinstance(kept, str) else kept()

    try:
        with signals.working(words):
            yield
    except BaseException as error:
        # After a signal, whatever was raised is what the work, or foreign code in it, made of the interruption.
        if not isinstance(error, KeyboardInterrupt) and not signals.received():
            raise
    else:
        if not signals.received():
            return
    typer.echo(f"\n{signals.unwound(words)}", err=True)
    raise typer.Exit(signals.exit_code()) from None


def measuring(run: Path) -> AbstractContextManager[None]:
    """`interruptible` around a measurement that goes on where it stopped."""
    return interruptible(f"finished batches of {run} are kept, the same command goes on")


def parse_setting(text: str) -> tuple[str, Any]:
    """The key and the value of a --set key=value, the value as TOML reads it or as text; None where it is empty."""
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise UsageError(f"--set needs key=value, found {text!r}")
    if not value.strip():
        return key.strip(), None
    try:
        return key.strip(), parse_toml(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()
    except ValueError as error:
        raise UsageError(f"--set {key.strip()}: {error}") from error


def print_json(content: Any) -> None:
    """Print a JSON-ready document on stdout."""
    typer.echo(json.dumps(content, indent=2, allow_nan=False))


def print_named(rows: list[tuple[str, str, str]]) -> None:
    """Print names with what they stand for and, on the next line, where that comes from."""
    width = max(len(name) for name, _, _ in rows)
    for name, words, source in rows:
        typer.echo(f"{name:<{width}}  {words}\n{'':<{width}}  [{source}]")


def print_records(records: list["Record"]) -> None:
    """Print the robust accuracies of evaluated runs under each attack, one row a run."""
    from corral.evaluation.records import as_percent
    from corral.report.words import attack_order

    names = attack_order([attack.name for record in records for attack in record.attacks])
    header = ["run", "n", "eps", "clean", *names]
    rows = []
    for record in records:
        found = {attack.name: attack.accuracy for attack in record.attacks}
        count = f"{record.n} of {record.n_test}" if record.reduced else str(record.n)
        rows.append([record.run, count, f"{record.eps:.4g}", as_percent(record.clean)])
        rows[-1] += [as_percent(found.get(name)) for name in names]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        typer.echo("  ".join(cells))
