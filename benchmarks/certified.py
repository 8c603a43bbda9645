"""Certified and attacked accuracy of recipes over several seeds, with the records and the table that README shows.

usage: python benchmarks/certified.py --data mnist --recipes certified --seeds 0 1 2 --n 1000 --out runs/certified
           --results results/certified-mnist [--radii 36/255 1.58] [--set key=value ...]

Every run is trained (or taken up where it stopped), certified, and attacked on the same test images by
`corral certify`; a broken certificate ends the whole with an error. Rows are mean ± sample standard deviation over the
seeds, in percent.
"""

import argparse
import shutil
import statistics
from pathlib import Path

from compare import setting, spread
from corral.data import load
from corral.evaluation.certificate import Certificate, read_certificate
from corral.evaluation.certify_run import certificate_label, certify_run
from corral.models.fingerprint import fingerprint
from corral.report.certificate_page import radius_words
from corral.training import RunFolder, load_model, parse_eps, train

RADII = ["36/255", "72/255", "108/255", "0.5", "1.0", "1.58"]


def certified(folder: RunFolder, n: int | None, radii: list[float]) -> tuple[Certificate, Path]:
    """The run's certificate and its file: the one on disk if it is of this model and these radii, else a fresh one."""
    model, _, info = load_model(folder.path)
    n_test = len(load(info.data).test)
    path = folder.path / "certificates" / f"{certificate_label(n=n or n_test, n_test=n_test, seed=0)}.json"
    if path.is_file():
        found = read_certificate(path)
        if found.model_fingerprint == fingerprint(model) and {point.radius for point in found.at} == set(radii):
            return found, path
    return certify_run(folder.path, n=n, radii=radii), path


def table(rows: dict[str, list[Certificate]], command: str) -> str:
    """The results as Markdown."""
    first = next(iter(rows.values()))[0]
    radii = [point.radius for point in first.at]
    names = ["no attack" if radius == 0 else f"l2 {radius_words(radius)}" for radius in radii]
    lines = [f"# Certified accuracy on {first.data}", "", f"`{command}`", ""]
    lines += [
        f"{first.n:,} of {first.n_test:,} test images, {len(next(iter(rows.values())))} seeds; percent, mean ± sd. "
        "“Left” is what DDN, the search along bisectors and PGD left.",
        "",
        "## Certified and left by attacks",
        "",
        f"| recipe | | {' | '.join(names)} | Lipschitz bound | training seconds |",
        f"| --- | --- | {' | '.join('---:' for _ in names)} | ---: | ---: |",
    ]
    for recipe, found in rows.items():
        proved = [spread([one.at[place].certified for one in found]) for place in range(len(radii))]
        left = [spread([one.at[place].attacked or 0.0 for one in found]) for place in range(len(radii))]
        bound = f"{statistics.mean(one.lipschitz for one in found):.4g}"
        seconds = f"{statistics.mean(one.train_seconds for one in found):.0f}"
        lines.append(
            f"| {recipe} | **certified** | {' | '.join(f'**{cell}**' for cell in proved)} | {bound} | {seconds} |"
        )
        lines.append(f"| | left | {' | '.join(left)} | | |")
    e = first.environment
    created = max(one.created for found in rows.values() for one in found)
    tried = sum(round(one.clean * one.n) for found in rows.values() for one in found)
    broken = sum(one.broken for found in rows.values() for one in found)
    lines += [
        "",
        f"Attacks broke {broken} of {tried:,} certificates. corral {e.corral}, torch {e.torch}, {e.device}, "
        f"{e.threads} thread(s), until {created}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--recipes", nargs="+", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--n", type=int)
    parser.add_argument("--radii", nargs="+", default=RADII)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--set", dest="settings", nargs="*", default=[])
    given = parser.parse_args()
    overrides = dict(setting(text) for text in given.settings)
    radii = sorted({0.0, *(parse_eps(radius, "L2") for radius in given.radii)})
    rows: dict[str, list[Certificate]] = {}
    for recipe in given.recipes:
        for seed in given.seeds:
            folder = RunFolder(given.out / f"{recipe}-{seed}")
            train(
                recipe,
                data=given.data,
                out=folder.path,
                resume=folder.recipe.is_file(),
                **{**overrides, "training.seed": seed},
            )
            found, path = certified(folder, given.n, radii)
            rows.setdefault(recipe, []).append(found)
            given.results.mkdir(parents=True, exist_ok=True)
            for file in (path, path.with_suffix(".npz")):
                shutil.copy(file, given.results / f"{recipe}-{seed}-{file.name}")
    command = (
        f"python benchmarks/certified.py --data {given.data} --recipes {' '.join(given.recipes)} "
        f"--seeds {' '.join(map(str, given.seeds))}{f' --n {given.n}' if given.n else ''} --out DIR --results RESULTS"
    )
    text = table(rows, command + (f" --set {' '.join(given.settings)}" if given.settings else ""))
    (given.results / "table.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
