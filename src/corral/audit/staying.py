"""A model may not end the audit of it: what would leave the process, and with which exit code, becomes an error."""

from collections.abc import Iterator
from contextlib import contextmanager

from corral.errors import CorralError


@contextmanager
def staying(name: str) -> Iterator[None]:
    """Turn what foreign code raises to end the process into one line; an interruption by the user stays one.

    `sys.exit(0)` would read as "pass", and so would the exit exception of the command line's own library.

    Args:
        name: of the target, for the message.

    Raises:
        CorralError: the block raised `SystemExit` or another exception made to leave the process.
    """
    try:
        yield
    except (KeyboardInterrupt, CorralError):
        raise
    except BaseException as error:
        import typer  # late: only the command line needs it

        if isinstance(error, Exception) and not isinstance(error, typer.Exit | typer.Abort):
            raise
        words = (str(error).splitlines() or [""])[0]
        raise CorralError(
            f"{name}: the model tried to end the audit ({type(error).__name__}{f': {words}' if words else ''}); remove "
            "what exits from its code"
        ) from error
