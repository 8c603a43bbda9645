"""The command line: parse, call, print."""

import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from corral.cli_analyze import EPILOG as ANALYZE_EPILOG
from corral.cli_analyze import analyze
from corral.cli_audit import EPILOG, audit
from corral.cli_certify import EPILOG as CERTIFY_EPILOG
from corral.cli_certify import certify
from corral.cli_export import EPILOG as EXPORT_EPILOG
from corral.cli_export import export
from corral.cli_options import (
    BatchSize,
    DataRoot,
    Device,
    Fresh,
    Images,
    Json,
    Quiet,
    Threads,
    interruptible,
    kept_batches,
    parse_setting,
    print_json,
    print_named,
    set_threads,
)
from corral.cli_reproduce import EPILOG as REPRODUCE_EPILOG
from corral.cli_reproduce import reproduce
from corral.errors import CorralError, UsageError
from corral.evaluation.records import Record, as_percent

app = typer.Typer(
    help="Train image classifiers whose decision is a cluster, attack them honestly, report what is true.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command(epilog="Example: corral demo --out runs/demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the runs and the page.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0)] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default one a core.")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """The main job in two minutes: train seven classifiers on real digits, attack all, write the page."""
    from corral.demo import run_demo

    started = time.perf_counter()
    page, records = run_demo(out, seed=seed, workers=workers, progress=not quiet)
    seconds = time.perf_counter() - started
    if as_json:
        print_json({"report": str(page), "seconds": seconds, "records": [r.model_dump(mode="json") for r in records]})
        return
    _print_table(records)
    typer.echo(f"\n{seconds:.0f} s of work. The page: {page}")


@app.command(epilog="Example: corral train corral --data mnist --out runs/mnist-corral --seed 1 --set epochs=10")
def train(
    recipe: Annotated[
        str, typer.Argument(help="A recipe's name (see `corral recipes`), a .toml file or a run, as ./at.")
    ],
    data: Annotated[str | None, typer.Option(help="Data set (see `corral data`); default the recipe's.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/RECIPE-DATA-SEED.")] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    eps: Annotated[str | None, typer.Option(help="Radius in pixel units: 0.1 or 8/255.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs after the warm start.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Recipe key=value, repeatable; key= for its default.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    device: Device = None,
    data_root: DataRoot = None,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a classifier by a recipe into a run folder; Ctrl-C leaves a run that --resume continues."""
    from corral.training import RunFolder, load_model, load_recipe, shipped_recipes
    from corral.training import train as train_run
    from corral.training.recipe_methods import ENCODERS

    set_threads(threads)
    overrides: dict[str, Any] = dict(parse_setting(text) for text in settings or [])
    given = {"training.seed": seed, "threat.eps": eps, "training.epochs": epochs}
    overrides |= {key: value for key, value in given.items() if value is not None}
    resolved = load_recipe(recipe, data=data, overrides=overrides)
    shipped = shipped_recipes()
    if out is None and recipe not in shipped and Path(recipe).is_dir():
        out = Path(recipe)
    folder = out or Path("runs") / f"{resolved.name}-{_slug(resolved.data.name)}-{resolved.training.seed}"

    def kept() -> str:
        run = RunFolder(folder)
        what = "the last finished epoch is kept" if run.state.is_file() else "no epoch was finished"
        given = f"./{folder}" if str(folder) in shipped else folder  # else the recipe of that name is meant
        return what + (f"; continue with: corral train {given} --resume" if run.recipe.is_file() else "")

    with interruptible(kept):
        path = train_run(resolved, out=folder, resume=resume, device=device, data_root=data_root, progress=not quiet)
    _, _, info = load_model(path, encoder=True)
    if as_json:
        print_json({"run": str(path), **info.model_dump(mode="json")})
    else:
        ending = "" if info.ending is None else f", {info.ending.words()}"
        typer.echo(f"{path}: {info.method} on {info.data}, {info.epochs} epochs{ending}, {info.train_seconds:.1f} s")
        typer.echo(f"next: corral evaluate {path}{' --linear slf,alf' if info.method in ENCODERS else ''}")


@app.command(epilog="Example: corral evaluate runs/mnist-corral --protocol standard --n 1000")
def evaluate(
    run: Annotated[list[Path], typer.Argument(help="Run folders.")],
    protocol: Annotated[
        str,
        typer.Option(help="quick, paper, centred (MMC, MAT), encoder (PGD-20), standard (AutoAttack), adaptive."),
    ] = "quick",
    eps: Annotated[str | None, typer.Option(help="Radius in pixel units: 0.1 or 8/255; default the run's.")] = None,
    n: Images = None,
    attack: Annotated[list[str] | None, typer.Option(help="PGD preset instead of a protocol, repeatable.")] = None,
    linear: Annotated[
        str | None,
        typer.Option(help="Fit heads to an encoder first and attack them, such as slf,alf; also aff, nearest, soft."),
    ] = None,
    fresh: Fresh = False,
    batch_size: BatchSize = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the attacks' random starts.")] = 0,
    device: Device = None,
    data_root: DataRoot = None,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Attack finished runs on their test set; writes RUN/records/PROTOCOL.json and .npz. Ctrl-C: call it again."""
    from corral.attacks import PROTOCOLS
    from corral.evaluation.evaluate import evaluate as evaluate_run
    from corral.evaluation.protocols import PROTOCOL_NAMES

    set_threads(threads)
    if protocol not in PROTOCOL_NAMES:
        raise UsageError(f"unknown protocol {protocol!r}; known: {', '.join(PROTOCOL_NAMES)}")
    unknown = [name for name in attack or [] if name not in PROTOCOLS]
    if unknown:
        raise UsageError(f"unknown attack {unknown[0]!r}; known: {', '.join(PROTOCOLS)}")
    if attack and protocol != "quick":
        raise UsageError(f"--attack stands instead of a protocol, found --protocol {protocol} too; give one of them")
    chosen = [PROTOCOLS[name] for name in dict.fromkeys(attack)] if attack else None
    if linear is not None:
        from corral.evaluation.linear import linear_runs

        kinds = [kind.strip() for kind in linear.split(",")]
        with interruptible(lambda: "finished epochs are kept; call it again"):
            run = [
                head
                for path in run
                for head in linear_runs(path, kinds, data_root=data_root, device=device, progress=not quiet)
            ]
    records = []
    for path in run:
        with interruptible(kept_batches(path)):
            records.append(
                evaluate_run(
                    path,
                    protocol=protocol,
                    eps=eps,
                    n=n,
                    attacks=chosen,
                    batch_size=batch_size,
                    seed=seed,
                    fresh=fresh,
                    device=device,
                    data_root=data_root,
                    progress=not quiet,
                )
            )
    if as_json:
        print_json([record.model_dump(mode="json") for record in records])
    else:
        _print_table(records)


@app.command(epilog="Example: corral report runs/mnist-at runs/mnist-corral --out report.html")
def report(
    run: Annotated[list[Path], typer.Argument(help="Evaluated run folders.")],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
    as_json: Json = False,
) -> None:
    """Write one self-contained page about evaluated runs."""
    from corral.report import report as write_report

    page = write_report(run, out=out)
    if as_json:
        print_json({"report": str(page)})
    else:
        typer.echo(f"wrote {page}")


@app.command(epilog="Example: corral recipes corral --data mnist")
def recipes(
    name: Annotated[str | None, typer.Argument(help="Show this recipe, resolved, as TOML.")] = None,
    data: Annotated[str | None, typer.Option(help="With the recipe's values for this data set.")] = None,
    as_json: Json = False,
) -> None:
    """List the shipped recipes with their sources, or show one in full."""
    from corral.training import load_recipe, shipped_recipes

    if name is not None:
        resolved = load_recipe(name, data=data)
        if as_json:
            print_json(resolved.model_dump(mode="json"))
        else:
            typer.echo(resolved.to_toml(), nl=False)
        return
    if data is not None:
        raise UsageError("--data goes with a recipe's name")
    rows = [load_recipe(recipe) for recipe in shipped_recipes()]
    if as_json:
        print_json([{"name": r.name, "summary": r.summary, "source": r.source} for r in rows])
        return
    print_named([(r.name, r.summary, r.source) for r in rows])


@app.command(epilog="Example: corral data mnist")
def data(
    name: Annotated[str | None, typer.Argument(help="Load this set (fetching it if need be) and describe it.")] = None,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """List the data sets, or load one and say what is in it."""
    from corral.data import DATA_SETS, PATH_DATA_SETS, load

    if name is None:
        listed = [(entry.name, entry.description) for entry in DATA_SETS.values()]
        listed += [(f"{entry.name}:PATH", entry.description) for entry in PATH_DATA_SETS.values()]
        if as_json:
            print_json([{"name": key, "description": text} for key, text in listed])
        else:
            width = max(len(key) for key, _ in listed)
            typer.echo("\n".join(f"{key:<{width}}  {text}" for key, text in listed))
        return
    found = load(name, root=data_root)
    facts = {
        "name": found.name,
        "note": found.note,
        "image_shape": list(found.train.shape),
        "classes": list(found.classes),
        "train": len(found.train),
        "test": len(found.test),
        "unlabeled": len(found.unlabeled) if found.unlabeled is not None else 0,
        "fingerprint": found.fingerprint,
    }
    if as_json:
        print_json(facts)
    else:
        for key, value in facts.items():
            typer.echo(f"{key}: {', '.join(map(str, value)) if isinstance(value, list) else value}")


app.command(epilog=CERTIFY_EPILOG)(certify)
app.command(epilog=EPILOG)(audit)
app.command(epilog=ANALYZE_EPILOG)(analyze)
app.command(epilog=REPRODUCE_EPILOG)(reproduce)
app.command(epilog=EXPORT_EPILOG)(export)


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name.rsplit("/", 1)[-1])


def _print_table(records: list[Record]) -> None:
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


def main() -> None:
    """Entry point: errors of this package are one line on stderr and their exit code; anything else is a bug."""
    try:
        try:
            app(prog_name="corral", standalone_mode=True)
        finally:
            sys.stdout.flush()
    except CorralError as error:
        # One line, whatever a file's name holds.
        words = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(error))
        sys.stderr.write(f"corral: {words}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("\ncorral: interrupted\n")
        sys.exit(130)
    except OSError as error:
        # Output that cannot be written; files of the package's own raise CorralError.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            sys.stderr.write(f"corral: cannot write the output ({error.strerror})\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
