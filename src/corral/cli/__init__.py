"""The command line: parse, call, print; one file a command."""

import io
import os
import sys
from typing import Annotated

import typer

from corral.cli import analyze, audit, certify, data, demo, evaluate, export, recipes, report, reproduce, train
from corral.cli.renamed import tell_in_one_line, with_new_names
from corral.errors import CorralError
from corral.registry import import_plugins
from corral.version import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def show_version(asked: bool) -> None:
    """Print the version and end."""
    if asked:
        typer.echo(f"corral {__version__}")
        raise typer.Exit


@app.callback()
def options(
    plugin: Annotated[
        list[str] | None,
        typer.Option(help="A .py file or a module that registers your own methods ...; repeatable. Or CORRAL_PLUGINS."),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train image classifiers whose decision is a cluster, attack and certify them, report the results."""
    import_plugins(plugin or ())


for module in (demo, train, evaluate, report, recipes, data, certify, audit, analyze, reproduce, export):
    name = module.__name__.rpartition(".")[2]
    app.command(cls=getattr(module, "Command", None), epilog=module.EPILOG)(getattr(module, name))


def main() -> None:
    """Entry point: errors of this package are one line on stderr and their exit code; anything else is a bug."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a locale that has no such character gets its number
            stream.reconfigure(errors="backslashreplace")
    tell_in_one_line()
    try:
        try:
            app(with_new_names(sys.argv[1:]), prog_name="corral", standalone_mode=True)
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
