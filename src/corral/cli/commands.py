"""The commands, one file each, and the options before them."""

from typing import Annotated

import typer

from corral import checksums
from corral.cli import (
    analyze,
    audit,
    certify,
    cluster,
    compare,
    data,
    demo,
    evaluate,
    export,
    models,
    recipes,
    report,
    reproduce,
    runs,
    show,
    train,
)
from corral.registry import import_plugins
from corral.version import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
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
    context: typer.Context,
    plugin: Annotated[
        list[str] | None,
        typer.Option(help="A .py file or a module that registers your own methods ...; repeatable. Or CORRAL_PLUGINS."),
    ] = None,
    accept_edited: Annotated[
        bool, typer.Option("--accept-edited", help="Read files that were edited since they were written; pages say so.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train image classifiers whose decision is a cluster, attack and certify them, report the results."""
    if accept_edited:
        context.with_resource(checksums.accept_edited())
    import_plugins(plugin or ())


for module in (
    demo,
    train,
    cluster,
    evaluate,
    report,
    compare,
    runs,
    show,
    models,
    recipes,
    data,
    certify,
    audit,
    analyze,
    reproduce,
    export,
):
    name = module.__name__.rpartition(".")[2]
    app.command(cls=getattr(module, "Command", None), epilog=module.EPILOG)(getattr(module, name))
