"""Compare recipes on one data set over several seeds, at equal cost, and print the table of README.

usage: python experiments/compare.py --data mnist --recipes at clustr corral --seeds 0 1 2 --n 1000 --out runs/mnist
           [--protocols quick standard] [--results results [--table mnist]] [--set key=value ...]

Every run is trained (or resumed), then evaluated by each protocol on the same test images. The measurements are added
to the CSV files of --results. Rows are mean ± sample standard deviation over the seeds, in percent.
"""

import argparse
import statistics
import tomllib
from pathlib import Path
from typing import Any

from arena.statistics import paired_difference
from corral.attacks.protocols import PROTOCOLS
from corral.attacks.threat import Threat
from corral.data import load
from corral.evaluation import Record, evaluate, read_record
from corral.evaluation.evaluate import record_label
from corral.models.fingerprint import fingerprint
from corral.papers.entries import SeedResult, Trained, Worst, row_entries
from corral.papers.lines import AttackLine, RowKey
from corral.papers.result import packed, unpacked
from corral.papers.store import Store, changing
from corral.report.runs.collect import read_run
from corral.report.words import WORST_CASE
from corral.training import Run, load_model, train

COLUMNS = {
    "pgd_published": "PGD as published",
    "pgd_ce": "PGD-20×5, log space",
    "autoattack": "AutoAttack",
    "adaptive": "adaptive ensemble",
    "worst_case": "worst of all attacks",
}


def measured(folder: Run, n: int | None, protocol: str) -> Record:
    """The run's record: the one on disk if it is of this model and this n, else a new evaluation."""
    model, _, info = load_model(folder.path)
    n_test = len(load(info.data).test)
    own = Threat(info.norm, info.eps)
    label = record_label(protocol, n=n or n_test, n_test=n_test, threat=own, own=own, seed=0)
    path = folder.records_folder / f"{label}.json"
    if path.is_file():
        record = read_record(path)
        if record.model_fingerprint == fingerprint(model):
            return record
    return evaluate(folder.path, n=n, protocol=protocol)


def spread(values: list[float]) -> str:
    """Mean ± sample standard deviation of fractions, in percent."""
    mean = f"{100 * statistics.mean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def setting(text: str) -> tuple[str, Any]:
    """key=value with a TOML value."""
    key, _, value = text.partition("=")
    return key, tomllib.loads(f"value = {value}")["value"]


def seed_result(run: Run, seed: int, records: list[Record]) -> SeedResult:
    """One run's measurements, for the results' CSV files."""
    merged, _, outcomes = read_run(run.path, [record_file(record) for record in records])[0]
    info = load_model(run.path)[2]
    robust = min(attack.accuracy for attack in merged.attacks)
    kept = outcomes.get("worst_case")
    worst = Worst(round(robust * merged.n), "" if kept is None else packed(kept))
    trained = Trained(info.train_seconds, info.work_seconds, info.work_clock, info.ending)
    return SeedResult(run.path.name, seed, {1.0: records}, {}, {1.0: worst}, [], trained)


def record_file(record: Record) -> str:
    """The name of a record's file, without its ending."""
    own = Threat(record.norm, record.eps)
    return record_label(record.protocol, n=record.n, n_test=record.n_test, threat=own, own=own, seed=record.eval_seed)


def table_of(results: Path, store: Store, name: str = "mnist") -> str:
    """A comparison as Markdown, from the CSV files of the results."""
    rows = store.of_table(name, "", "")
    runs, lines = [], []
    for key, group in rows.items():
        found = [[store.attacks[one] for one in line.evaluations.split()] for line in group]
        runs += [
            store.runs[evaluations[0][0].run, line.fingerprint] for evaluations, line in zip(found, group, strict=True)
        ]
        # The first protocol that ran an attack, and the worst case over all of them, which comes last.
        left = [
            {line.attack: line for evaluation in reversed(evaluations) for line in evaluation}
            | {line.attack: line for line in evaluations[-1] if line.attack == "worst_case"}
            for evaluations in found
        ]
        lines.append((key.row, left))
    met = {name for _, left in lines for one in left for name in one}
    columns = {name: title for name, title in {"clean": "clean", **COLUMNS}.items() if name in met}
    first = lines[0][1][0]["clean"]
    seeds = len(lines[0][1])
    text = [f"# Recipes on {runs[0].data} at equal cost", ""]
    images = f"{first.n:,} of {runs[0].n_test:,} test images"
    text += [
        f"{first.norm} eps {first.eps:.4g}, {images}, {seeds} seeds; percent, mean ± sd.",
        "",
    ]
    clock = "device" if any(run.work_clock == "device" for run in runs) else "CPU"
    text += ["## At equal cost", "", f"| recipe | {' | '.join(columns.values())} | {clock} seconds of training |"]
    text += [f"| --- | {' | '.join('---:' for _ in columns)} | ---: |"]
    for row, left in lines:
        cells = [
            spread([one[name].accuracy for one in left]) if all(name in one for one in left) else "–"
            for name in columns
        ]
        seconds = [run.work_seconds for run in runs if run.recipe == row]
        cells.append("–" if None in seconds else f"{statistics.mean(seconds):.0f}")
        text.append(f"| {row} | {' | '.join(cells)} |")
    text += ["", *_differences(lines)]
    made = f"corral {first.corral}, torch {first.torch}, {first.device}, {first.threads} thread(s)"
    latest = max(one["clean"].created for _, left in lines for one in left)
    return "\n".join([*text, "", f"{made}, until {latest}.", ""])


def _differences(lines: list[tuple[str, list[dict[str, AttackLine]]]]) -> list[str]:
    """Each row less the first, paired by image and seed, under the worst of all attacks."""
    found = {
        row: [unpacked(one[WORST_CASE].outcomes, one[WORST_CASE].n) for one in left]
        for row, left in lines
        if all(WORST_CASE in one and one[WORST_CASE].outcomes for one in left)
    }
    reference = lines[0][0]
    if reference not in found or len(found) < 2:
        return []
    text = [
        f"## Against {reference}",
        "",
        "| recipe | worst of all attacks, points | 95% interval over seeds and images |",
    ]
    text.append("| --- | ---: | ---: |")
    for row, outcomes in found.items():
        if row != reference and len(outcomes) == len(found[reference]):
            difference = paired_difference(outcomes, found[reference])
            mean, low, high = (100 * one for one in (difference.mean, difference.low, difference.high))
            text.append(f"| {row} | {mean:+.1f} | [{low:+.1f}, {high:+.1f}] |")
    return text


def trained(recipe, seed, data, out, overrides):
    """A recipe's run of one seed: trained, resumed, or found finished."""
    folder = Run(out / f"{recipe}-{seed}")
    settings = {**overrides, "training.seed": seed}
    train(recipe, data=data, out=folder.path, resume=folder.recipe_file.is_file(), **settings)
    return folder


def main() -> None:
    """Train, evaluate, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--recipes", nargs="+", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS.names(), default=["quick"])
    parser.add_argument("--n", type=int)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--results", type=Path, help="folder of the CSV files that get the rows")
    parser.add_argument("--table", help="table name of the rows there; default the data set")
    parser.add_argument("--set", dest="settings", nargs="*", default=[])
    given = parser.parse_args()
    overrides = dict(setting(text) for text in given.settings)
    name, found = given.table or given.data, Store()
    for recipe in given.recipes:
        seeds = []
        for seed in given.seeds:
            folder = trained(recipe, seed, given.data, given.out, overrides)
            records = [measured(folder, given.n, protocol) for protocol in given.protocols]
            seeds.append(seed_result(folder, seed, records))
        key = RowKey(table=name, scale="", changed="", data=given.data, beside="", row=recipe)
        eps = seeds[0].records[1.0][0].eps
        found.add(row_entries(key, seeds, recipe=recipe, rule=None, eps=eps, columns=""))
    if given.results:
        with changing(given.results) as store:
            store.add(found)
    print(table_of(given.out, found, name))


if __name__ == "__main__":
    main()
