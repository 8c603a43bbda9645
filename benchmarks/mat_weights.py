"""The weights of MAT's terms, which its paper leaves out: what each does to held-out training images.

usage: python benchmarks/mat_weights.py --data mnist --setting mnist-vgg-small --so 0 1 10 --bibo 0 1 3
           --out runs/mat-weights --results results/mat-weights

One training a pair of weights, of the recipe `mat`; then PGD-50 on the cross-entropy of inner products with the
centres, as MAT attacks (its Sec. 3.3), and on their margin, which has no softmax to saturate. The images are the
recipe's validation split: no test image is looked at. Runs that are there are taken as they are. `table.md` has a table
for every data set whose numbers lie in the results folder.
"""

import argparse
import json
from pathlib import Path

import torch

from corral.attacks import pgd
from corral.data import load
from corral.evaluation.records import environment, now
from corral.files import write_atomically
from corral.models.fingerprint import fingerprint
from corral.reproduce.definition import load_setting
from corral.reproduce.markdown import rows_of
from corral.training import RunFolder, load_model, load_recipe, train
from corral.training.start import prepare_data

STEPS = 50


def measured(folder: RunFolder, data_root: str | None) -> dict[str, float | str | int]:
    """Accuracies on the run's validation images, and how long its features are."""
    model, _, info = load_model(folder.path)
    held_out = prepare_data(load_recipe(folder.path), root=data_root)[2]
    if held_out is None or held_out.labels is None:
        raise SystemExit("nothing is held out: take a setting with data.validation above 0")
    x, y = held_out.float(), held_out.labels
    with torch.no_grad():
        lengths, right = model.features(x).norm(dim=1), model(x).argmax(1) == y
    found: dict[str, float | str | int] = {"n": len(y), "clean": float(right.float().mean())}
    for objective in ("cross_entropy", "margin"):
        moved = pgd(
            model,
            x,
            y,
            eps=info.eps,
            norm=info.norm,
            steps=STEPS,
            step_size=info.eps / 4,
            objective=objective,
            generator=torch.Generator().manual_seed(0),
            keep="max_loss_restart",
        )
        with torch.no_grad():
            found[objective] = float((model(moved).argmax(1) == y).float().mean())
    found |= {"length": float(lengths.mean()), "seconds": info.train_seconds, "eps": info.eps}
    return found | {"model_fingerprint": fingerprint(model)}


def table(rows: list[dict[str, float]]) -> list[str]:
    """The rows as Markdown."""
    cells = [
        [
            f"{row['so']:g}, {row['bibo']:g}",
            *(f"{100 * row[key]:.1f}" for key in ("clean", "cross_entropy", "margin")),
            f"{row['length']:.1f}",
        ]
        for row in rows
    ]
    return rows_of(
        ["SO weight, BIBO weight", "clean", "PGD-50, cross-entropy", "PGD-50, margin", "length of features"], cells
    )


def write_tables(results: Path) -> None:
    """`table.md` from all numbers in the folder, the lowest seed of each data set."""
    lines = ["# The weights of MAT's terms, on held-out training images", ""]
    for path in sorted(results.glob("*.json")):
        document = json.loads(path.read_text())
        first = document["rows"][0]
        rows = [row for row in document["rows"] if row["seed"] == first["seed"]]
        made = f"{document['command']}, setting {document['setting']}, eps {first['eps']:.4g}, {first['n']} images, "
        made += f"seed {first['seed']}, {document['created'][:10]}, {document['environment']['device']}"
        lines += [f"## {path.stem}", "", f"{made}; percent.", "", *table(rows), ""]
    write_atomically(results / "table.md", "\n".join(lines).encode())


def main() -> None:
    """Train what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--setting", default=None, help="of corral/reproduce/settings.toml; default the recipe's own")
    parser.add_argument("--so", type=float, nargs="+", required=True)
    parser.add_argument("--bibo", type=float, nargs="+", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    given = parser.parse_args()
    path = given.results / f"{given.data}.json"
    before = json.loads(path.read_text())["rows"] if path.is_file() else []
    kept = {(row["so"], row["bibo"]): row for row in before if row["seed"] == given.seed}
    load(given.data, root=given.data_root)
    for so in given.so:
        for bibo in given.bibo:
            weights = {"method.so_weight": so, "method.bibo_weight": bibo, "training.seed": given.seed}
            scaled = load_setting(given.setting).overrides(load_recipe("mat", data=given.data), weights)
            recipe = load_recipe("mat", data=given.data, overrides=scaled)
            folder = RunFolder(given.out / f"{given.data}-{so:g}-{bibo:g}-{given.seed}")
            train(recipe, out=folder.path, resume=folder.recipe.is_file(), data_root=given.data_root)
            if kept.get((so, bibo), {}).get("model_fingerprint") != fingerprint(load_model(folder.path)[0]):
                kept[so, bibo] = {"so": so, "bibo": bibo, "seed": given.seed, **measured(folder, given.data_root)}
            rows = [kept[key] for key in sorted(kept)]
            made = {"command": "benchmarks/mat_weights.py", "setting": given.setting, "created": now()}
            document = {**made, "environment": environment(torch.device("cpu")).model_dump(), "rows": rows}
            write_atomically(path, json.dumps(document, indent=1).encode())
            write_tables(given.results)
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
