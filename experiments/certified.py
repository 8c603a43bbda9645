"""Certified and attacked accuracy of recipes over several seeds: rows of the results, and the table that README shows.

usage: python experiments/certified.py --data mnist --recipes certified --seeds 0 1 2 --n 1000 --out runs/certified
           --results results [--radii 36/255 1.58] [--set key=value ...]

Every run is trained (or resumed), certified, and attacked on the same test images by `corral certify`; a broken
certificate ends the script with an error. Rows are mean ± sample standard deviation over the seeds, in percent.
"""

import argparse
import statistics
from pathlib import Path

from compare import setting, spread, trained
from corral.data import load
from corral.evaluation.certificate import Certificate, read_certificate
from corral.evaluation.certification import certificate_label, certify_run
from corral.models.fingerprint import fingerprint
from corral.papers.entries import Trained
from corral.papers.lines import AnalysisLine, AttackLine, RowLine, RunLine, content_id
from corral.papers.store import Store, changing
from corral.report.certificate.page import radius_words
from corral.training import Run, load_model, parse_eps

RADII = ["36/255", "72/255", "108/255", "0.5", "1.0", "1.58"]


def certified(folder: Run, n: int | None, radii: list[float]) -> Certificate:
    """The run's certificate: the one on disk if it is of this model and these radii, else a new one."""
    model, _, info = load_model(folder.path)
    n_test = len(load(info.data).test)
    path = folder.path / "certificates" / f"{certificate_label(n=n or n_test, n_test=n_test, seed=0)}.json"
    if path.is_file():
        found = read_certificate(path)
        if found.model_fingerprint == fingerprint(model) and {point.radius for point in found.at} == set(radii):
            return found
    return certify_run(folder.path, n=n, radii=radii)


def certificate_entries(table: str, row: str, run: str, found: Certificate) -> Store:
    """A certificate as lines of the results' CSV files: at each radius certified and empirical robust accuracy."""
    store = Store()
    trained = Trained(found.train_seconds, found.work_seconds, found.work_clock, None)
    largest = max(point.radius for point in found.at)
    store.runs[run, found.model_fingerprint] = RunLine(
        run=run, fingerprint=found.model_fingerprint, recipe=found.recipe, method=found.method, head=found.head,
        rule=found.rule, data=found.data, data_fingerprint=found.data_fingerprint,
        classes=len(load(found.data).classes), n_test=found.n_test, norm=found.norm, eps=largest,
        seed=found.train_seed, train_seconds=trained.train_seconds, work_seconds=trained.work_seconds,
        work_clock=trained.work_clock,
    )  # fmt: skip
    versions = found.environment.model_dump()
    shared = {"run": run, "fingerprint": found.model_fingerprint, "n": found.n, "seed": found.seed, **versions}
    evaluation = content_id(table, run, found.model_fingerprint, found.n, found.created)
    store.attacks[evaluation] = [
        AttackLine(
            **shared, evaluation=evaluation, protocol="certificate", norm=found.norm, eps=point.radius, attack=attack,
            robust=round(share * found.n), created=found.created,
        )
        for point in found.at
        for attack, share in (("certified", point.certified), ("attacked", point.attacked))
        if share is not None
    ]  # fmt: skip
    numbers = {"clean": found.clean, "lipschitz": found.lipschitz, "broken": found.broken, "median": found.median,
               "below_next": found.below_next}  # fmt: skip
    numbers |= {f"bound of {layer.name}": layer.bound for layer in found.layers}
    curves = {
        "radius": [point.radius for point in found.curve],
        "certified": [point.certified for point in found.curve],
        "attacked": [point.attacked for point in found.curve if point.attacked is not None],
    }
    values = [(key, "number", str(value)) for key, value in numbers.items()]
    values += [(key, "curve", " ".join(map(str, curve))) for key, curve in curves.items()]
    analysis = content_id(run, found.model_fingerprint, "certificate", *values)
    store.analyses[analysis] = [
        AnalysisLine(
            **shared, analysis=analysis, name="certificate", data=found.data, eps=largest, key=key, kind=kind,
            values=value, seconds=found.certify_seconds,
        )
        for key, kind, value in values
    ]  # fmt: skip
    line = RowLine(
        table=table, data=found.data, row=row, seed=found.train_seed, recipe=found.recipe, run=run,
        fingerprint=found.model_fingerprint, evaluations=evaluation, analyses=analysis,
    )  # fmt: skip
    store.rows[line.of] = [line]
    return store


def table_of(results: Path, store: Store, name: str = "certified-mnist") -> str:
    """Certificates as Markdown, from the CSV files of the results."""
    rows = store.of_table(name, "", "")
    lines = [line for group in rows.values() for line in group]
    attacked = {line.evaluations: store.attacks[line.evaluations] for line in lines}
    first = attacked[lines[0].evaluations][0]
    run = store.runs[first.run, first.fingerprint]
    radii = list(dict.fromkeys(line.eps for line in attacked[lines[0].evaluations]))
    names = ["no attack" if radius == 0 else f"l2 {radius_words(radius)}" for radius in radii]
    numbers = {
        line.run: {one.key: float(one.values) for one in store.analyses[line.analyses] if one.kind == "number"}
        for line in lines
    }
    seeds = len(next(iter(rows.values())))
    shown = " ".join(str(line.seed) for line in next(iter(rows.values())))
    recipes = " ".join(key.row for key in rows)
    command = f"python experiments/certified.py --data {run.data} --recipes {recipes} --seeds {shown} --n {first.n}"
    text = [f"# Certified accuracy on {run.data}", "", f"`{command} --out DIR --results RESULTS`", ""]
    text += [
        f"{first.n:,} of {run.n_test:,} test images, {seeds} seeds; percent, mean ± sd. "
        "“Empirical” is robust accuracy under DDN, the search along bisectors and PGD.",
        "",
        "## Certified and empirical robust accuracy",
        "",
        f"| recipe | | {' | '.join(names)} | Lipschitz bound | training seconds |",
        f"| --- | --- | {' | '.join('---:' for _ in names)} | ---: | ---: |",
    ]
    for key, group in rows.items():

        def cells(attack: str, group: list[RowLine] = group) -> list[str]:
            found = [
                {one.eps: one.accuracy for one in attacked[row.evaluations] if one.attack == attack} for row in group
            ]
            return [spread([by.get(radius, 0.0) for by in found]) for radius in radii]

        bound = f"{statistics.mean(numbers[line.run]['lipschitz'] for line in group):.4g}"
        runs = [store.runs[line.run, line.fingerprint] for line in group]
        seconds = f"{statistics.mean(run.train_seconds for run in runs):.0f}"
        bold = " | ".join(f"**{cell}**" for cell in cells("certified"))
        text.append(f"| {key.row} | **certified** | {bold} | {bound} | {seconds} |")
        text.append(f"| | empirical | {' | '.join(cells('attacked'))} | | |")
    created = max(found[0].created for found in attacked.values())
    tried = sum(round(found["clean"] * first.n) for found in numbers.values())
    broken = sum(round(found["broken"]) for found in numbers.values())
    text += [
        "",
        f"Attacks broke {broken} of {tried:,} certificates. corral {first.corral}, torch {first.torch}, "
        f"{first.device}, {first.threads} thread(s), until {created}.",
        "",
    ]
    return "\n".join(text)


def main() -> None:
    """Train, certify, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--recipes", nargs="+", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--n", type=int)
    parser.add_argument("--radii", nargs="+", default=RADII)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True, help="folder of the CSV files that get the rows")
    parser.add_argument("--set", dest="settings", nargs="*", default=[])
    given = parser.parse_args()
    overrides = dict(setting(text) for text in given.settings)
    radii = sorted({0.0, *(parse_eps(radius, "L2") for radius in given.radii)})
    name, found = f"certified-{given.data}", Store()
    for recipe in given.recipes:
        for seed in given.seeds:
            folder = trained(recipe, seed, given.data, given.out, overrides)
            one = certificate_entries(name, recipe, folder.path.name, certified(folder, given.n, radii))
            earlier = {key: [*found.rows.get(key, []), *lines] for key, lines in one.rows.items()}
            found.add(one)
            found.rows |= earlier
    with changing(given.results) as store:
        store.add(found)
    print(table_of(given.results, found, name))


if __name__ == "__main__":
    main()
