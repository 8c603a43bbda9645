"""What a table says of training: minutes as printed, epochs to convergence and seconds, ours."""

import statistics
from collections.abc import Sequence

from corral.papers.result import ResultPart, ResultRow
from corral.report.table.sections import NONE
from corral.strict import WorkClock

# Heading and meaning of the seconds of work.
WORK: dict[WorkClock, tuple[str, str]] = {
    "cpu": ("CPU seconds, ours", "CPU seconds are those of the process and all its threads"),
    "device": ("device seconds, ours", "Device seconds are from one synchronisation of the device to another"),
}
WALL = "seconds, ours"
STOPPED = (
    " “stopped” counts the seeds whose robust accuracy on validation images had no new best for some epochs, "
    "“collapsed” those that catastrophic overfitting ended."
)


def training_headings(part: ResultPart) -> list[tuple[str, str]]:
    """Heading and kind ("published" or "ours") of a part's columns about training.

    Seconds are of work where every row of the part has them for all its seeds, on one kind of device; else all are of
    the wall clock, so that one column never has both.
    """
    found = [("minutes, published", "published")] if _printed(part) else []
    found += [("epochs, ours", "ours")] if _ended(part) else []
    clock = _clock(part)
    return [*found, (WALL if clock is None else WORK[clock][0], "ours")]


def training_cells(part: ResultPart, row: ResultRow) -> list[str]:
    """A row's cells below the headings; its seconds include its warm start and the stages before it."""
    found = [NONE if row.minutes is None else f"{row.minutes:.0f}"] if _printed(part) else []
    found += [_epochs(row)] if _ended(part) else []
    if _clock(part) is None:
        return [*found, f"{statistics.mean(row.train_seconds):.0f}"]
    return [*found, _spread(row.work_seconds, digits=0)]


def training_words(part: ResultPart) -> list[str]:
    """What the columns about training mean, a sentence each."""
    clock = _clock(part)
    counted = "warm start and stages before included, validation not"
    if clock is None:
        found = [f"Seconds of training are of the wall clock, which other programs' load lengthens; {counted}."]
    else:
        found = [f"{WORK[clock][1]}; {counted}."]
    if _ended(part):
        found.append(
            "Epochs are those of the warm start, where there is one, + those of the method until the criterion of "
            "convergence was met on validation images; “not converged” counts the seeds that used up their epochs "
            "instead, whose true numbers are larger."
            + (STOPPED if any(ending.stopped for row in part.rows for ending in row.endings) else "")
        )
    return found


def _printed(part: ResultPart) -> bool:
    return any(row.minutes is not None for row in part.rows)


def _ended(part: ResultPart) -> bool:
    return any(row.endings for row in part.rows)


def _clock(part: ResultPart) -> WorkClock | None:
    """The clock that all rows of a part share; None where a row has none, or rows differ."""
    found = {row.work_clock for row in part.rows}
    return found.pop() if len(found) == 1 else None


def _epochs(row: ResultRow) -> str:
    if not row.endings:
        return NONE
    warm = statistics.mean(ending.warm_epochs for ending in row.endings)
    epochs = _spread([ending.epochs for ending in row.endings], digits=1)
    counts = {
        "not converged": sum(ending.converged is False and ending.stopped is None for ending in row.endings),
        "stopped": sum(ending.stopped == "patience" for ending in row.endings),
        "collapsed": sum(ending.stopped == "collapse" for ending in row.endings),
    }
    said = "".join(f", {what}: {count} of {len(row.endings)}" for what, count in counts.items() if count)
    return (f"{warm:g} + " if warm else "") + epochs + said


def _spread(values: Sequence[float], *, digits: int) -> str:
    """Mean and sample standard deviation; a single value alone."""
    if len(values) == 1:
        return f"{values[0]:.0f}"
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"
