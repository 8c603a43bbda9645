"""The command line: parse, call, print; one file a command."""

import os
import sys
from typing import Annotated

import typer

from corral.cli import analyze, audit, certify, data, demo, evaluate, export, recipes, report, reproduce, train
from corral.cli.renamed import tell_in_one_line, with_new_names
from corral.errors import CorralError
from corral.registry import import_plugins

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def plugins(
    plugin: Annotated[
        list[str] | None,
        typer.Option(help="A .py file or a module that registers your own methods ...; repeatable. Or CORRAL_PLUGINS."),
    ] = None,
) -> None:
    """Train image classifiers whose decision is a cluster, attack them honestly, report what is true."""
    import_plugins(plugin or ())


app.command(epilog=demo.EPILOG)(demo.demo)
app.command(epilog=train.EPILOG)(train.train)
app.command(epilog=evaluate.EPILOG)(evaluate.evaluate)
app.command(epilog=report.EPILOG)(report.report)
app.command(epilog=recipes.EPILOG)(recipes.recipes)
app.command(epilog=data.EPILOG)(data.data)
app.command(epilog=certify.EPILOG)(certify.certify)
app.command(epilog=audit.EPILOG)(audit.audit)
app.command(epilog=analyze.EPILOG)(analyze.analyze)
app.command(epilog=reproduce.EPILOG)(reproduce.reproduce)
app.command(epilog=export.EPILOG)(export.export)


def main() -> None:
    """Entry point: errors of this package are one line on stderr and their exit code; anything else is a bug."""
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
