"""The differences in accuracy of the rows of a table from one of them, paired image by image."""

from corral.papers.definition import CLEAN, Table
from corral.papers.result import Measured, ResultPart, unpacked
from corral.report.runs.estimates import Estimate, difference_error, estimate
from corral.report.table.sections import NONE, Section

# Two-sided, as of a 95% interval.
CHANCE = 0.05


def against(table: Table, part: ResultPart) -> Section | None:
    """The paired differences of a part's rows from the table's row of reference.

    None where the table has no such row, or where it or every other was not made, or made without keeping its images.
    Rows of an earlier setting are compared with each other alone.
    """
    reference = next((row for row in part.rows if row.name == table.against), None)
    if reference is None:
        return None
    accuracies = [column.name for column in table.columns if column.attack == CLEAN or column.attacked]
    factors = list(dict.fromkeys(f"{column.eps:g}" for column in table.columns if column.attacked))
    worst = [part.worst(factor) + ("" if factor == "1" else f" at {factor} × eps") for factor in factors]
    rows = []
    for row in part.rows:
        pairs = [(row.sound.get(factor), reference.sound.get(factor)) for factor in factors]
        pairs += [(row.protocol.get(name), reference.protocol.get(name)) for name in accuracies]
        cells = tuple(_difference(*pair, n=part.n) for pair in pairs)
        if row is not reference and row.earlier == reference.earlier and any(cell != NONE for cell in cells):
            rows.append((row.shown, *cells))
    if not rows:
        return None
    return Section(
        title=f"Against {reference.name}",
        text=f"Each row's accuracy less that of “{reference.name}”, in points, on the same images: ± is the standard "
        "error of the paired difference, of the images and, where there are several, of both rows' seeds. ▲ and ▼ "
        "stand where Student's t says that fewer than one comparison of equals in twenty would differ so much; of many "
        "comparisons some do.",
        columns=("Method", *worst, *accuracies),
        rows=tuple(rows),
        unit=f"points of accuracy, {part.n:,} images, mean over seeds",
    )


def _difference(ours: Measured | None, theirs: Measured | None, *, n: int) -> str:
    """The difference with its standard error; a dash where the images of either are not known."""
    if ours is None or theirs is None or not ours.kept or not theirs.kept:
        return NONE
    first, second = _estimate(ours, n), _estimate(theirs, n)
    gap, error = 100 * (first.mean - second.mean), 100 * difference_error(first, second)
    mark = ("▲ " if gap > 0 else "▼ ") if abs(gap) > _quantile(first, second, error / 100) * error else ""
    return f"{mark}{gap:+.1f} ± {error:.1f}"


def _quantile(first: Estimate, second: Estimate, error: float) -> float:
    """How many standard errors chance explains: Student's t with Welch and Satterthwaite's degrees of freedom.

    Three seeds say little of their own spread: where it is all of the error, 2.8 standard errors are, not 2.
    """
    from scipy.stats import t as student  # late: importing it takes 0.5 s

    seeds = [(one.seed_error**2, one.seeds - 1) for one in (first, second)]
    images = (max(error**2 - sum(part for part, _ in seeds), 0.0), first.n - 1)
    squares = sum(part**2 / degrees for part, degrees in (*seeds, images) if part and degrees)
    return float(student.ppf(1 - CHANCE / 2, error**4 / squares)) if squares else 0.0


def _estimate(measured: Measured, n: int) -> Estimate:
    return estimate([(value, n) for value in measured.values], [unpacked(kept, n) for kept in measured.kept])
