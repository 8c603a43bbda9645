"""The command line: parse, call, print; one file a command."""

import sys
from typing import Any

from corral.cli import signals, streams
from corral.errors import CorralError
from corral.terminal import one_line


def __getattr__(name: str) -> Any:
    # The commands are imported when signals are handled: that takes half a second, and torch, which they import, more.
    if name == "app":
        from corral.cli.commands import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> None:
    """Entry point: errors of this package are one line on stderr and their exit code; anything else is a bug."""
    signals.install()
    streams.install()
    try:
        _run()
    except SystemExit:
        if signals.received():
            signals.leave()
        raise


def _run() -> None:
    """Run the command of the command line."""
    from corral.cli.commands import app
    from corral.cli.renamed import tell_in_one_line, with_new_names

    tell_in_one_line()
    try:
        try:
            app(with_new_names(sys.argv[1:]), prog_name="corral", standalone_mode=True)
        finally:
            sys.stdout.flush()
    except streams.OutputError as error:
        streams.abandon()
        if str(error):
            streams.complain(f"corral: {error}")
        sys.exit(error.exit_code)
    except CorralError as error:
        if not _is_spoken_for():
            streams.complain(f"corral: {one_line(str(error))}")
        sys.exit(error.exit_code)
    except MemoryError:
        streams.complain("corral: out of memory: give fewer images, a smaller batch or model, or a larger machine")
        sys.exit(1)
    except KeyboardInterrupt:
        streams.complain(f"\n{signals.last_line()}")
        sys.exit(signals.exit_code())
    except OSError as error:
        # Of a file that neither the package nor its libraries expected to fail.
        where = f"{error.filename}: " if error.filename else ""
        streams.complain(f"corral: {one_line(f'{where}cannot be read or written ({error.strerror})')}")
        sys.exit(1)


def _is_spoken_for() -> bool:
    """Whether this is one of several processes, of which the first says what ends them."""
    launch = sys.modules.get("corral.distributed.launch")  # which imports torch
    return launch is not None and launch.is_spoken_for()
