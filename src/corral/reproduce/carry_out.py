"""Trains what a table lacks, evaluates it by the paper's protocol and by sound attacks, and writes what came of it."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from corral.attacks.attack import Attack
from corral.attacks.threat import Threat
from corral.data import DataSet, load, loaded_once
from corral.devices import choose_device
from corral.documents import write_document
from corral.errors import CorralError, UsageError
from corral.evaluation.analyses import Analysis, AnalysisName, Kept
from corral.evaluation.evaluate import evaluate, record_label
from corral.evaluation.protocols import protocol_attacks
from corral.evaluation.records import Environment, Record, read_record
from corral.models import Classifier
from corral.models.fingerprint import fingerprint
from corral.progress import Progress
from corral.report.collect import read_run
from corral.report.outcomes import single_attacks
from corral.report.words import listed, slug
from corral.reproduce.definition import Column, Part, Row, ScaleName, Table, load_table
from corral.reproduce.numbers import Evaluated, accuracy, sound
from corral.reproduce.plan import Plan, variant
from corral.reproduce.redecided import with_rule
from corral.reproduce.result import Measured, Result, ResultPart, ResultRow, read_result
from corral.reproduce.show import folder_of, meant_columns, written
from corral.training import RunFolder, load_model, load_recipe, train
from corral.training.run import RunInfo


def reproduce(
    table: str,
    *,
    scale: str = "smoke",
    runs: str | Path = "runs/reproduce",
    results: str | Path = "results",
    rows: Sequence[str] | None = None,
    data: Sequence[str] | None = None,
    changed: Mapping[str, Any] | None = None,
    data_root: str | Path | None = None,
    device: str | None = None,
    progress: bool = True,
) -> Path:
    """Make a table of a paper again.

    Every run is trained, or taken up where an earlier call stopped; evaluations that exist of the same weights, images
    and attack settings are not repeated. Tables share runs of equal recipe, data, settings and seed. Rows and parts
    that are not asked for stay as an earlier call wrote them, on whatever machine, while they are of the data set and
    of the columns as they are now; those of another setting or recipe than today's, or of other weights than lie here,
    are marked as of an earlier setting.

    Args:
        table: one of `shipped_tables`.
        scale: "smoke" (minutes, checks the path), "small" (real data, hours of a CPU), "short" (what fits one GPU,
            where a table has it) or "full" (the paper's own setting).
        runs: where the runs lie.
        results: where `TABLE-SCALE/` with the records, `table.json`, `table.md` and `page.html` is written.
        rows: make only these, by the paper's names.
        data: make only the parts on these of our data sets.
        changed: recipe keys on top of the scale's setting, None for a key's default; "RECIPE:key" for the stages of one
            recipe alone. The table is written to a folder of its own, and says so.
        data_root: folder of the data-set files.
        device: where to run; default a GPU if there is one.
        progress: show progress on stderr.

    Returns:
        The page.

    Raises:
        UsageError: an unknown table, scale, row, data set or recipe key.
        CorralError: what training and evaluation raise.
    """
    definition = load_table(table)
    size = next((name for name in definition.scales if name == scale), None)
    if size is None:
        raise UsageError(f"table {table} has no scale {scale!r}; known: {', '.join(definition.scales)}")
    chosen = [row for row in definition.rows if rows is None or row.name in rows]
    unknown = sorted(set(rows or ()) - {row.name for row in definition.rows})
    if unknown:
        raise UsageError(f"table {table} has no row {unknown[0]!r}; known: {listed([r.name for r in definition.rows])}")
    parts = definition.scales[size]
    absent = sorted(set(data or ()) - {part.data for part in parts})
    if absent:
        known = listed(list(dict.fromkeys(part.data for part in parts)))
        raise UsageError(f"table {table} has no data set {absent[0]!r} at scale {scale}; known: {known}")
    _check_changed(definition, changed or {})
    with loaded_once():
        maker = _Maker(definition, size, Path(runs) / scale, Path(results), changed or {}, data_root, device, progress)
        for part in parts:
            for row in chosen if data is None or part.data in data else ():
                if row.has(part.data):
                    maker.make(part, row)
        page = maker.write()
    maker.say(f"{table} at scale {scale}: {page}")
    return page


def _check_changed(table: Table, changed: Mapping[str, Any]) -> None:
    """Refuse a change of a recipe that no row is made by, or of what tells the table's runs apart.

    Raises:
        UsageError: it.
    """
    recipes = {recipe for row in table.rows for recipe in (row.recipe, *(stage.recipe for stage in row.stages))}
    for key in changed:
        only, colon, rest = key.partition(":")
        if colon and only not in recipes:
            raise UsageError(
                f"--set {key}: no row of {table.name} is made by {only!r}; known: {listed(sorted(recipes))}"
            )
        if (rest if colon else key).split(".")[-1] in ("seed", "start", "labeller"):
            raise UsageError(f"--set {key}: the table gives every run its own; leave it out")


class _Maker:
    """Where things lie and run, and what of the table is there."""

    def __init__(
        self,
        table: Table,
        scale: ScaleName,
        runs: Path,
        results: Path,
        changed: Mapping[str, Any],
        data_root: str | Path | None,
        device: str | None,
        progress: bool,
    ) -> None:
        self.table, self.scale, self.plan, self.changed = table, scale, Plan(runs, changed), changed
        self.out = results / folder_of(table.name, scale, changed)
        self.data_root, self.device, self.progress = data_root, device, progress
        self.say = Progress("", 0, "", enabled=progress).say
        self.rows = self.kept()

    def kept(self) -> dict[tuple[str, str, str], ResultRow]:
        """The rows of earlier calls with what the table says of them today, marked where it means another run now.

        A row of other images, of columns that mean something else, or of a method that is no longer in the table goes.
        """
        path = self.out / "table.json"
        if not path.is_file():
            return {}
        try:
            before = read_result(path).parts
        except CorralError as error:
            raise CorralError(f"{error}; delete the file first") from error
        pairs = [
            (part, row, found)
            for part in self.table.scales[self.scale]
            for old in before
            if (part.data, part.beside, part.n or old.n_test) == (old.data, old.beside, old.n)
            and old.data_fingerprint in (None, self.images(part).fingerprint)
            for row in self.table.rows
            for found in old.rows
            if found.name == row.name and row.has(part.data) and self.measured_alike(part, row, found)
        ]
        return {
            (part.data, part.beside, row.name): found.model_copy(
                update=_said(part, row) | {"earlier": not self.of_today(part, row, found)}
            )
            for part, row, found in pairs
        }

    def measured_alike(self, part: Part, row: Row, found: ResultRow) -> bool:
        """Whether a row of an earlier call was measured as the table measures now, and is of the weights that lie here.

        Trained again since, a run's other rows would be of other weights.
        """
        if found.rule != row.rule or set(found.analyses) != set(row.analyses):
            return False
        if found.columns and found.columns != meant_columns(self.table):
            return False
        if self.table.against is not None and not all(measured.kept for measured in found.sound.values()):
            return False
        for name, fingerprinted in zip(found.runs, found.fingerprints, strict=False):
            folder = RunFolder(self.plan.runs / name)
            here = row.rule is None and folder.model.is_file()
            if here and fingerprint(load_model(folder.path)[0]) != fingerprinted:
                return False
        n_test, _ = self.size(part)
        labels = [
            record_label(protocol, n=part.n or n_test, n_test=n_test, eps=factor * found.eps, run_eps=found.eps, seed=0)
            for factor in self.factors
            for protocol in part.protocols_at(factor)
        ]
        return found.records == tuple(_copy(part, row, label, seed) for seed in part.seeds for label in labels)

    def of_today(self, part: Part, row: Row, found: ResultRow) -> bool:
        """Whether a row of an earlier call is of the runs that the table means now."""
        return found.runs == tuple(self.plan.planned(part, row, seed)[1].path.name for seed in part.seeds)

    @property
    def factors(self) -> list[float]:
        """The radii of the columns, as multiples of the training radius."""
        return list(dict.fromkeys(column.eps for column in self.table.columns))

    def make(self, part: Part, row: Row) -> None:
        """Make a row and write the table as far as it is."""
        self.rows[part.data, part.beside, row.name] = self.row(part, row)
        self.write()

    def write(self) -> Path:
        """Write table.json, table.md and the page; returns the page."""
        parts = []
        for part in self.table.scales[self.scale]:
            keys = [(part.data, part.beside, row.name) for row in self.table.rows]
            if found := tuple(self.rows[key] for key in keys if key in self.rows):
                n_test, classes = self.size(part)
                made = ResultPart(
                    data=part.data,
                    beside=part.beside,
                    n=part.n or n_test,
                    n_test=n_test,
                    classes=classes,
                    rows=found,
                    data_fingerprint=self.images(part).fingerprint,
                )
                parts.append(made)
        said = {key: "" if value is None else str(value) for key, value in self.changed.items()}
        result = Result(table=self.table.name, scale=self.scale, changed=said, parts=tuple(parts))
        write_document(result, self.out / "table.json")
        return written(self.table, result, self.out)

    def size(self, part: Part) -> tuple[int, int]:
        """Test images and classes of a part's data set."""
        data = self.images(part)
        return len(data.test), len(data.classes)

    def images(self, part: Part) -> DataSet:
        """A part's data set."""
        return load(part.data, root=None if self.data_root is None else Path(self.data_root))

    def row(self, part: Part, row: Row) -> ResultRow:
        """One method, over the seeds."""
        factors = self.factors
        found: list[dict[float, Evaluated]] = []
        files: list[str] = []
        names: list[str] = []
        environments: list[Environment] = []
        stories: list[list[RunInfo]] = []
        analyses: dict[AnalysisName, list[Analysis]] = {name: [] for name in row.analyses}
        for seed in part.seeds:
            folder = self.trained(part, row, seed)
            names.append(folder.path.name)
            stories.append(self.stories(part, row, seed))
            if row.rule is not None:
                folder = with_rule(folder, row.rule)
            for name in row.analyses:
                analyses[name].append(self.analysed(part, folder, name))
            labels = {factor: self.evaluated(part, folder, factor) for factor in factors}
            # By label: the run is shared with other tables, whose protocols and number of images may be others.
            read = {factor: read_run(folder.path, labels[factor])[0] for factor in factors}
            for label in (label for factor in factors for label in labels[factor]):
                environment = read_record(folder.records / f"{label}.json").environment
                environments += [] if environment in environments else [environment]
            found.append({factor: (record, outcomes) for factor, (record, _, outcomes) in read.items()})
            files += [self.copied(part, row, folder, label, seed) for factor in factors for label in labels[factor]]
        first, _ = found[0][factors[0]]
        measured = {column.name: _column(column, found, analyses) for column in self.table.columns}
        return ResultRow(
            name=row.name,
            recipe=row.recipe,
            seeds=part.seeds,
            **_said(part, row),
            protocol={name: value for name, value in measured.items() if value is not None},
            sound={f"{factor:g}": sound([by[factor] for by in found]) for factor in factors},
            **_training(stories),
            eps=first.eps / factors[0],
            norm=first.norm,
            runs=tuple(names),
            rule=row.rule,
            records=tuple(files),
            created=max(record.created for by in found for record, _ in by.values()),
            environment=first.environment,
            analyses={name: tuple(values) for name, values in analyses.items()},
            fingerprints=tuple(by[factors[0]][0].model_fingerprint for by in found),
            columns=meant_columns(self.table),
            environments=tuple(environments),
        )

    def trained(self, part: Part, row: Row, seed: int) -> RunFolder:
        """The row's run: finished, taken up or trained."""
        if row.pretrain:
            self.trained(*self.plan.before(part, row), seed)
        planned = [self.plan.planned(part, row, seed)] if row.pretrain else self.plan.chain(part, row, seed)
        for recipe, folder in planned:
            train(
                recipe,
                out=folder.path,
                resume=folder.recipe.is_file(),
                device=self.device,
                data_root=self.data_root,
                progress=self.progress,
            )
        return planned[-1][1]

    def stories(self, part: Part, row: Row, seed: int) -> list[RunInfo]:
        """How the stages before a row's run and, last, that run were made."""
        stages = self.plan.chain(part, row, seed)[:-1] if row.stages else []
        folders = [folder for _, folder in (*stages, self.plan.planned(part, row, seed))]
        return [load_model(folder.path, encoder=True)[2] for folder in folders]

    def analysed(self, part: Part, folder: RunFolder, name: AnalysisName) -> Analysis:
        """The run's analysis: the one on disk if it is of this model and has the columns' numbers, else made now."""
        kept = Kept(
            folder.path,
            n=part.analysed(name),
            data_root=self.data_root,
            device=choose_device(self.device),
            progress=self.progress,
        )
        return kept.analysis(name, needs=[column.number for column in self.table.columns if column.analysis == name])

    def evaluated(self, part: Part, folder: RunFolder, factor: float) -> list[str]:
        """Evaluate by each protocol what was not evaluated yet; returns the records' labels."""
        model, _, info = load_model(folder.path)
        n_test, _ = self.size(part)
        labels = []
        for protocol in part.protocols_at(factor):
            eps = factor * info.eps
            label = record_label(protocol, n=part.n or n_test, n_test=n_test, eps=eps, run_eps=info.eps, seed=0)
            path = folder.records / f"{label}.json"
            attacks = protocol_attacks(
                protocol,
                model,
                threat=Threat(info.norm, eps),
                classes=len(info.classes),
                recipe=load_recipe(folder.path),
            )
            if not (path.is_file() and _measures(read_record(path), model, info, attacks)):
                evaluate(
                    folder.path,
                    protocol=protocol,
                    eps=eps,
                    n=part.n,
                    data_root=self.data_root,
                    device=self.device,
                    progress=self.progress,
                )
            labels.append(label)
        return labels

    def copied(self, part: Part, row: Row, folder: RunFolder, label: str, seed: int) -> str:
        """Copy a record beside the table; returns its name there."""
        name = _copy(part, row, label, seed)
        self.out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder.records / f"{label}.json", self.out / name)
        return name


def _measures(record: Record, model: Classifier, info: RunInfo, attacks: Sequence[Attack]) -> bool:
    """Whether a record is of these weights on the images of their data set, under these attacks as they are set today.

    Args:
        record: on disk.
        model: that it should be of.
        info: the story of its making.
        attacks: that it should hold, each with its settings.
    """
    held = {result.name: result.settings for result in single_attacks(record)}
    same = (record.model_fingerprint, record.data_fingerprint) == (fingerprint(model), info.data_fingerprint)
    return same and held == {attack.name: dict(attack.settings) for attack in attacks}


def _training(stories: Sequence[Sequence[RunInfo]]) -> dict[str, Any]:
    """What a row says of its training: the seconds of every seed's runs, and how the last of them ended.

    Seconds of work are left out where a run does not know them, or counted them as another does not.
    """
    known = [[info.work_seconds for info in story if info.work_seconds is not None] for story in stories]
    clocks = {info.work_clock for story in stories for info in story}
    clock = clocks.pop() if len(clocks) == 1 else None
    endings = [story[-1].ending for story in stories]
    return {
        "train_seconds": tuple(sum(info.train_seconds for info in story) for story in stories),
        "work_seconds": () if clock is None else tuple(sum(values) for values in known),
        "work_clock": clock,
        "endings": () if None in endings else tuple(endings),
    }


def _said(part: Part, row: Row) -> dict[str, Any]:
    """What the paper and the table's definition say of a row."""
    return {
        "remark": row.remark,
        "published": row.published.get(part.beside, {}),
        "minutes": row.minutes.get(part.beside),
    }


def _copy(part: Part, row: Row, label: str, seed: int) -> str:
    """The name of a record's copy beside the table."""
    return f"{slug(part.data)}-{slug(_shown(row))}-{seed}-{label}.json"


def _shown(row: Row) -> str:
    """The variant and the rule that it is measured with."""
    return variant(row) if row.rule is None else f"{variant(row)} rule {row.rule}"


def _column(
    column: Column, found: Sequence[dict[float, Evaluated]], analyses: dict[AnalysisName, list[Analysis]]
) -> Measured | None:
    """A column's numbers, by seed; None where one was not measured."""
    if not column.analysis:
        return accuracy([by[column.eps] for by in found], column.attack)
    values = [analysis.numbers.get(column.number) for analysis in analyses[column.analysis]]
    known = tuple(value for value in values if value is not None)
    return Measured(values=known, attack="no attack") if len(known) == len(values) else None
