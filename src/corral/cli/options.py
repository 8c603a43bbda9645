"""What the commands share: options of one meaning and one wording, and how they are carried out."""

import json
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corral.errors import UsageError

if TYPE_CHECKING:
    from corral.evaluation.records import Record

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, for machines.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; default a GPU if there is one.")]
DataRoot = Annotated[Path | None, typer.Option(help="Folder of data-set files; default CORRAL_DATA or a user cache.")]
Threads = Annotated[int | None, typer.Option(min=1, max=1024, help="CPU threads; default torch's own choice.")]
Images = Annotated[int | None, typer.Option(min=1, help="This many test images, class-balanced; default all.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Throw away what an interrupted call finished.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Default 125 on a CPU, else 500.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")]


def set_threads(count: int | None) -> None:
    """Let torch use so many CPU threads; None leaves it its own choice."""
    if count is not None:
        import torch

        torch.set_num_threads(count)


@contextmanager
def interruptible(kept: str | Callable[[], str]) -> Iterator[None]:
    """End the command with exit code 130 on Ctrl-C, after one line.

    Args:
        kept: what is kept and how to go on; a function is asked at the moment of the interruption.
    """
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"\ncorral: interrupted; {kept if isinstance(kept, str) else kept()}", err=True)
        raise typer.Exit(130) from None


def parse_setting(text: str) -> tuple[str, Any]:
    """The key and the value of a --set key=value, the value as TOML reads it or as text; None where it is empty.

    Raises:
        UsageError: no key, or no equals sign.
    """
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise UsageError(f"--set needs key=value, found {text!r}")
    if not value.strip():
        return key.strip(), None
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def kept_batches(run: Path) -> str:
    """What an interrupted measurement of a run leaves."""
    return f"finished batches of {run} are kept, the same command goes on"


def print_json(content: Any) -> None:
    """Print a JSON-ready document on stdout."""
    typer.echo(json.dumps(content, indent=2, allow_nan=False))


def print_named(rows: list[tuple[str, str, str]]) -> None:
    """Print names with what they stand for and, on the next line, where that comes from."""
    width = max(len(name) for name, _, _ in rows)
    for name, words, source in rows:
        typer.echo(f"{name:<{width}}  {words}\n{'':<{width}}  [{source}]")


def print_records(records: list["Record"]) -> None:
    """Print what was left of each evaluated run under each attack, one row a run."""
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
