"""Removes the rows of earlier calls that were measured in another way than the table measures now."""

from collections.abc import Sequence

from corral.models.fingerprint import fingerprint
from corral.papers.assemble import key_of
from corral.papers.definition import Part, Row, columns_digest
from corral.papers.lines import AttackLine, RowLine
from corral.papers.measure import Setup
from corral.papers.store import Store
from corral.report.words import WORST_CASE
from corral.training import Run, load_model


def without_refused(setup: Setup, store: Store) -> None:
    """Take the rows of a table out of the store that were measured in another way than the table measures now.

    Those are rows of other images, of columns that mean something else, of other protocols, of other weights than lie
    here, and of methods that are no longer in the table.
    """
    table, scale, changed = setup.table, setup.scale, setup.changed
    meant = {
        key_of(table, scale, changed, part, row): (part, row)
        for part in table.scales[scale]
        for row in table.rows
        if row.has(part.data)
    }
    any_row = next(iter(meant), None)
    words = "" if any_row is None else any_row.changed
    for key, lines in store.of_table(table.name, scale, words).items():
        if key not in meant or not _measured_alike(setup, store, lines, *meant[key]):
            del store.rows[key]


def _measured_alike(setup: Setup, store: Store, lines: Sequence[RowLine], part: Part, row: Row) -> bool:
    """Whether a row was measured as the table measures now, on its images, and is of the weights that lie here."""
    rule = None if row.rule is None else str(row.rule)
    evaluations = [[store.attacks[name] for name in line.evaluations.split()] for line in lines]
    analyses = [{store.analyses[name][0].name for name in line.analyses.split()} for line in lines]
    return (
        tuple(line.seed for line in lines) == part.seeds
        and all(line.rule == rule and line.columns in ("", columns_digest(setup.table)) for line in lines)
        and all(names == set(row.analyses) for names in analyses)
        and all(_of_these_images(setup, store, part, found[0][0]) for found in evaluations)
        and all(_by_these_protocols(setup, store, part, found) for found in evaluations)
        and (setup.table.against is None or all(_known_by_image(found) for found in evaluations))
        and (row.rule is not None or all(_of_these_weights(setup, line) for line in lines))
    )


def _of_these_images(setup: Setup, store: Store, part: Part, first: AttackLine) -> bool:
    data = setup.images(part)
    run = store.runs[first.run, first.fingerprint]
    return first.n == (part.n or len(data.test)) and run.data_fingerprint == data.fingerprint


def _by_these_protocols(setup: Setup, store: Store, part: Part, found: Sequence[Sequence[AttackLine]]) -> bool:
    eps = store.runs[found[0][0].run, found[0][0].fingerprint].eps
    held = {(f"{lines[0].eps / eps:g}", lines[0].protocol) for lines in found if "+" not in lines[0].protocol}
    return held == {(f"{factor:g}", protocol) for factor in setup.factors for protocol in part.protocols_at(factor)}


def _known_by_image(found: Sequence[Sequence[AttackLine]]) -> bool:
    """Whether the worst case at every radius is known image by image, as a comparison of rows needs it."""
    radii = {lines[0].eps for lines in found}
    known = {
        line.eps
        for lines in found
        for line in lines
        if line.outcomes and (line.attack == WORST_CASE or all(other.attack != WORST_CASE for other in lines))
    }
    return radii <= known


def _of_these_weights(setup: Setup, line: RowLine) -> bool:
    """Trained again since, a run's other rows would be of other weights."""
    folder = Run(setup.plan.runs / line.run)
    return not folder.model_file.is_file() or fingerprint(load_model(folder.path)[0]) == line.fingerprint
