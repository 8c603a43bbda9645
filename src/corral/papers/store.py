"""The results as CSV files: read, checked, and changed by one process at a time."""

import csv
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from corral.checksums import checksum, edited
from corral.errors import CorralError
from corral.files import write_atomically
from corral.lock import locked
from corral.papers.lines import EDITED, AnalysisLine, AttackLine, Line, RowKey, RowLine, RunLine
from corral.reading import MOST_TEXT, check_file

RUNS, ATTACKS, ANALYSES, ROWS = "runs.csv", "attacks.csv", "analyses.csv", "rows.csv"
# A curve of an analysis may have more digits than csv reads by default.
csv.field_size_limit(1 << 24)

AnyLine = TypeVar("AnyLine", bound=Line)


@dataclass
class Store:
    """What was measured, in memory: runs, the lines of evaluations and analyses by their ids, and those of each row."""

    runs: dict[tuple[str, str], RunLine] = field(default_factory=dict)
    attacks: dict[str, list[AttackLine]] = field(default_factory=dict)
    analyses: dict[str, list[AnalysisLine]] = field(default_factory=dict)
    rows: dict[RowKey, list[RowLine]] = field(default_factory=dict)

    def add(self, other: "Store") -> None:
        """Take everything of another; what both have is the other's, and outcomes that only one knows stay."""
        for key, lines in other.attacks.items():
            self.attacks[key] = _with_outcomes(lines, self.attacks.get(key, []))
        self.runs |= other.runs
        self.analyses |= other.analyses
        self.rows |= other.rows

    def without_orphans(self) -> "Store":
        """The same without runs, evaluations and analyses that no row names."""
        named = self.named()
        attacks = {key: group for key, group in self.attacks.items() if key in named}
        analyses = {key: group for key, group in self.analyses.items() if key in named}
        lines = (group[0] for groups in (attacks, analyses) for group in groups.values())
        runs = {(line.run, line.fingerprint) for line in (*chain(*self.rows.values()), *lines)}
        return Store({key: run for key, run in self.runs.items() if key in runs}, attacks, analyses, self.rows)

    def named(self) -> set[str]:
        """The ids of all evaluations and analyses that rows name."""
        lines = chain(*self.rows.values())
        return {name for line in lines for name in (*line.evaluations.split(), *line.analyses.split())}

    def of_table(self, table: str, scale: str, changed: str) -> dict[RowKey, list[RowLine]]:
        """The rows of one table."""
        wanted = (table, scale, changed)
        return {key: lines for key, lines in self.rows.items() if (key.table, key.scale, key.changed) == wanted}


def read_store(folder: Path) -> Store:
    """Read and check the results of a folder; a missing file is an empty one.

    Raises:
        CorralError: a file that is not what it should be, or a row whose numbers are not there; the message names it.
    """
    found = Store()
    found.runs = {line.key: line for line in _read(folder / RUNS, RunLine)}
    for attack in _read(folder / ATTACKS, AttackLine):
        found.attacks.setdefault(attack.evaluation, []).append(attack)
    for analysis in _read(folder / ANALYSES, AnalysisLine):
        found.analyses.setdefault(analysis.analysis, []).append(analysis)
    for row in _read(folder / ROWS, RowLine):
        found.rows.setdefault(row.of, []).append(row)
    for lines in found.rows.values():
        for row in lines:
            if lost := _lost(found, row):
                raise CorralError(
                    f"{folder / ROWS}: row {row.row!r} of {row.table} names {lost}, which is in no other file; "
                    "restore the files or delete the row"
                )
    if found.attacks and not found.rows and (folder / ROWS).is_file():
        edited(folder / ROWS, what=f"{folder / ROWS}: without a row, beside {ATTACKS}", remedy="restore the file")
    files = {
        RUNS: found.runs.values(),
        ATTACKS: chain(*found.attacks.values()),
        ANALYSES: chain(*found.analyses.values()),
        ROWS: chain(*found.rows.values()),
    }
    for name, all_lines in files.items():
        for line in all_lines:
            if line.digest == EDITED:
                edited(folder / name, what=f"{folder / name}: {line.words}", remedy="restore the file")
    return found


def _lost(store: Store, row: RowLine) -> str | None:
    """What a row names and the store lacks."""
    evaluations, analyses = row.evaluations.split(), row.analyses.split()
    missing = [name for name in evaluations if name not in store.attacks]
    missing += [name for name in analyses if name not in store.analyses]
    known = (store.attacks[name][0] for name in evaluations if name in store.attacks)
    missing += [f"run {line.run}" for line in known if (line.run, line.fingerprint) not in store.runs]
    return missing[0] if missing else None


def _digest(line: Line, count: int) -> str:
    """Of a line and how many its group has; empty cells do not count, for a later version may have more columns."""
    cells = {name: _cell(value) for name, value in line if name not in ("digest", "lines")}
    return checksum([count, {name: cell for name, cell in cells.items() if cell}])[:8]


def _counts(lines: Sequence[Line]) -> Counter[str]:
    """How many lines each group has; a line that is in none counts once."""
    return Counter(line.group for line in lines if line.group)


@contextmanager
def changing(folder: Path) -> Iterator[Store]:
    """The results of a folder, for a change that no other process can cross.

    A lock file is held from before the files are read until after they are written, each in one step and `rows.csv`
    after what its lines name, so that neither a second process nor a kill loses a row.

    Raises:
        CorralError: a damaged file, or one that cannot be written.
    """
    with locked(folder / ".lock"):
        before = read_store(folder)
        names = before.named()
        yield before
        after = before.without_orphans()
        if names - {*after.attacks, *after.analyses}:
            _write_store(before, folder)
        _write_store(after, folder)


def _write_store(store: Store, folder: Path) -> None:
    """Write what rows name, then the rows: by table and part, rows of a part as they came."""
    _write(folder / RUNS, RunLine, [store.runs[key] for key in sorted(store.runs)])
    attacks = _sorted(store.attacks.values(), "run", "fingerprint", "eps", "created", "protocol")
    _write(folder / ATTACKS, AttackLine, attacks)
    _write(folder / ANALYSES, AnalysisLine, _sorted(store.analyses.values(), "run", "fingerprint", "name", "analysis"))
    _write(folder / ROWS, RowLine, _sorted(store.rows.values(), "table", "scale", "changed", "data", "beside"))


def _sorted(groups: Iterable[list[AnyLine]], *fields: str) -> Iterator[AnyLine]:
    """The lines of groups that are sorted by fields of their first lines."""
    return chain(*sorted(groups, key=lambda lines: [getattr(lines[0], name) for name in fields]))


def _with_outcomes(lines: Sequence[AttackLine], others: Sequence[AttackLine]) -> list[AttackLine]:
    """Lines of an evaluation, with the outcomes of the same lines elsewhere where they have none themselves."""
    known = {line.attack: line.outcomes for line in others}
    return [
        line if line.outcomes else line.model_copy(update={"outcomes": known.get(line.attack, "")}) for line in lines
    ]


def _read(path: Path, form: type[AnyLine]) -> list[AnyLine]:
    if not os.path.lexists(path):
        return []
    remedy = "restore the file or delete it"
    check_file(path, remedy=remedy, most=MOST_TEXT)
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream, strict=True)
            needed = {name for name, field in form.model_fields.items() if field.is_required()}
            if missing := sorted(needed - set(reader.fieldnames or ())):
                raise CorralError(f"{path}: not corral results, no column {missing[0]!r}; {remedy}")
            lines = [_line(path, reader.line_num, form, cells) for cells in reader]
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise CorralError(f"{path}: not corral results ({error}); {remedy}") from error
    if not any(line.digest for line in lines):  # of an earlier version
        return lines
    if lines[0].lines != len(lines):
        what = f"{path}: {len(lines):,} lines, written with {lines[0].lines or 'other first ones'}"
        edited(path, what=what, remedy="restore the file")
    counts = _counts(lines)
    same = [line.digest == _digest(line, counts[line.group]) for line in lines]
    return [
        line.model_copy(update={"digest": "" if so else EDITED, "lines": None})
        for line, so in zip(lines, same, strict=True)
    ]


def _line(path: Path, number: int, form: type[AnyLine], cells: dict[str, str | None]) -> AnyLine:
    try:
        return form.model_validate({name: value for name, value in cells.items() if value})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the line"
        message = first["msg"].removeprefix("Value error, ")
        raise CorralError(
            f"{path}: not corral results, line {number}, {where}: {message}; restore the file or delete it"
        ) from error


def _columns(form: type[Line]) -> list[str]:
    """A file's columns: what the line is first, what it was made with and its digest last."""
    versions = [name for name in form.model_fields if name in ("corral", "torch", "python", "device", "threads")]
    last = [*versions, *(name for name in ("platform", "digest", "lines") if name in form.model_fields)]
    return [*(name for name in form.model_fields if name not in last), *last]


def _write(path: Path, form: type[AnyLine], lines: Iterable[AnyLine]) -> None:
    text = io.StringIO()
    columns = _columns(form)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    found = list(lines)
    counts = _counts(found)
    for number, line in enumerate(found):
        digest = line.digest or _digest(line, counts[line.group])
        written = line.model_copy(update={"digest": digest, "lines": None if number else len(found)})
        writer.writerow([_cell(getattr(written, name)) for name in columns])
    content = text.getvalue().encode()
    if not (path.is_file() and path.read_bytes() == content):
        write_atomically(path, content)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
