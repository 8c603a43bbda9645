"""What the commands share: options, interruption, printing."""

import inspect
import json
import os
import re
import sys
import tomllib
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corral.cli import complete, signals
from corral.errors import UsageError
from corral.files import check_writable
from corral.reading import parse_toml
from corral.strict import MOST_REAL, MOST_WHOLE
from corral.zoo import is_shipped

if TYPE_CHECKING:
    from corral.records import Record
    from corral.targets import Preparation

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
        help="Images of a model that is no run: a set (see `corral data`), folder:PATH, file.py:function ...; of a run "
        "where its data lie now, the same by fingerprint.",
        autocompletion=complete.names("data set"),
    ),
]
Out = Annotated[
    Path | None, typer.Option("--out", help="The folder to write to; default the run's, else measured/NAME.")
]
RunBackbone = Annotated[
    str | None,
    typer.Option("--backbone", help="The own backbone of a run or a file of `corral cluster`: file.py:function."),
]
BatchSize = Annotated[int | None, typer.Option(min=1, max=MOST_WHOLE, help="Default by the images' size: 125 to 500.")]
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


@dataclass(frozen=True)
class Inputs:
    """The options of a command that takes models which are no runs: how they are fed."""

    path: Annotated[
        Path | None, typer.Option(help="The folder that code is imported from, and no other; default the file's own.")
    ] = None
    normalise: Annotated[
        str | None, typer.Option(help="The model wants normalised inputs: imagenet, cifar10, ... or M,M,M/S,S,S.")
    ] = None
    scale: Annotated[float, typer.Option(max=MOST_REAL, help="The model wants inputs in [0, SCALE], such as 255.")] = (
        1.0
    )
    bgr: Annotated[bool, typer.Option("--bgr", help="The model wants channels in the order BGR.")] = False
    nhwc: Annotated[bool, typer.Option("--nhwc", help="The model wants images (N, H, W, C).")] = False
    label_offset: Annotated[
        int, typer.Option(min=-MOST_WHOLE, max=MOST_WHOLE, help="Added to the data's labels to get the model's.")
    ] = 0

    def preparation(self) -> "Preparation":
        """What they ask for.

        Raises:
            UsageError: an impossible scale or normalisation.
        """
        from corral.models.statistics import parse_normalise
        from corral.targets import Preparation

        if not 0 < self.scale < float("inf"):
            raise UsageError(f"--scale must be above 0, found {self.scale:g}")
        mean, std = parse_normalise(self.normalise) if self.normalise is not None else (None, None)
        return Preparation(self.scale, mean, std, self.bgr, self.nhwc, self.label_offset)


@dataclass(frozen=True)
class Processes:
    """The options of a command that several processes can share."""

    devices: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_WHOLE,
            help="Processes that share the work, one a GPU; on the CPU so many, a part of it each.",
        ),
    ] = None
    nodes: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_WHOLE, help="Machines with so many devices each: torchrun or srun starts them."),
    ] = None

    def keywords(self) -> dict[str, Any]:
        """What the functions of the library take of them."""
        return {"devices": self.devices, "nodes": self.nodes}


def with_common(command: Callable[..., None]) -> Callable[..., None]:
    """A decorator: the options of `Common` stand behind a command's own, which gets them as `common`; sets threads.

    Before them stand those of `Inputs` and `Processes`, where the command has parameters `inputs` and `processes`. A
    command that several processes share is run in each of them.
    """
    groups: dict[str, type] = {"inputs": Inputs, "processes": Processes, "common": Common}
    declared = inspect.signature(command).parameters
    own = [one for one in declared.values() if one.name not in groups]
    wanted = {name: group for name, group in groups.items() if name in declared or name == "common"}

    @wraps(command)
    def called(*args: Any, **options: Any) -> None:
        for name, group in wanted.items():
            fields = inspect.signature(group).parameters
            options[name] = group(**{field: options.pop(field) for field in fields if field in options})
        common = options["common"]
        if "processes" in options:
            started_here(**options["processes"].keywords(), device=common.device)
        if common.threads is not None:
            import torch

            torch.set_num_threads(common.threads)
        command(*args, **options)

    parameters = [*own, *(one for group in wanted.values() for one in inspect.signature(group).parameters.values())]
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


def started_here(devices: int | None, nodes: int | None, device: str | None) -> None:
    """Run the command in a process for each of several devices and end with their code, unless this is one of them.

    Raises:
        UsageError: impossible numbers of them.
        CorralError: one was ended from outside.
    """
    if (devices or 1) * (nodes or 1) == 1 and "RANK" not in os.environ:
        return
    from corral.distributed.launch import find_place, launched, must_launch
    from corral.training.launched import device_count

    place = find_place(devices, nodes)
    if place is not None and place.rank > 0:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the process ends
    if must_launch(place, devices, nodes):
        on_cpu = device is not None and device.startswith("cpu")
        command = ["-m", "corral", *sys.argv[1:]]
        try:
            with signals.working(lambda: ""):
                code = launched(command, devices or 1, gpus=device_count(on_cpu=on_cpu))
        except KeyboardInterrupt:  # the first process has said what is kept
            code = signals.exit_code()
        raise typer.Exit(code)


def default_place(target: str, out: Path | None) -> Path | None:
    """Where documents of a target go: a run's own folder (None), --out, or measured/NAME of another model."""
    from corral.evaluation.subject import is_run

    if out is not None or (is_run(target) and not is_shipped(target)):
        return out
    return Path("measured") / file_stem(target)


def file_stem(target: str) -> str:
    """A target as a part of a file's name: letters, digits and -, the last 60 of them."""
    return re.sub(r"[^A-Za-z0-9]+", "-", target).strip("-")[-60:] or "model"


def threat_of(target: str, norm: str | None, eps: str | None) -> tuple[str, str] | None:
    """What --norm and --eps ask for; None where a run's own threat, or its norm, is meant.

    Raises:
        UsageError: a norm without a radius, or a model that is no run and no radius.
    """
    from corral.evaluation.subject import is_run

    if norm is None and is_run(target):
        return None
    if eps is None:
        raise UsageError(f"{target}: give --eps, the radius in pixel units of images in [0, 1], such as 8/255 or 0.3")
    return norm or "Linf", eps


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


def check_out(path: Path) -> None:
    """Refuse a file that --out names, before the work that makes it, where more than its own folder is missing.

    Folders of runs are made with all above them; for one page or model a path that is mostly absent is a slip.

    Raises:
        UsageError: the folder above the file's own does not exist.
        CorralError: it cannot be written.
    """
    folder = path.parent
    if not folder.exists() and not folder.parent.exists():
        raise UsageError(f"--out {path}: there is no folder {folder.parent}; make it, or name another file")
    check_writable(path)


def print_json(content: Any) -> None:
    """Print a JSON-ready document on stdout."""
    typer.echo(json.dumps(content, indent=2, allow_nan=False))


def print_named(rows: list[tuple[str, str, str]]) -> None:
    """Print names with what they stand for and, on the next line, where that comes from."""
    width = max(len(name) for name, _, _ in rows)
    for name, words, source in rows:
        typer.echo(f"{name:<{width}}  {words}\n{'':<{width}}  [{source}]")


def print_table(rows: list[list[str]], *, left: Collection[int]) -> None:
    """Print rows with aligned columns, those named to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        typer.echo("  ".join(cells).rstrip())


def print_records(records: list["Record"]) -> None:
    """Print the robust accuracies of evaluated runs under each attack, one row a run."""
    from corral.records import as_percent
    from corral.report.words import attack_order

    names = attack_order([attack.name for record in records for attack in record.attacks])
    header = ["run", "n", "eps", "clean", *names]
    rows = []
    for record in records:
        found = {attack.name: attack.accuracy for attack in record.attacks}
        count = f"{record.n} of {record.n_test}" if record.reduced else str(record.n)
        rows.append([record.run, count, f"{record.eps:.4g}", as_percent(record.clean)])
        rows[-1] += [as_percent(found.get(name)) for name in names]
    print_table([header, *rows], left=(0,))
