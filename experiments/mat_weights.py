"""The weights of MAT's terms, which its paper does not give: accuracies of each pair on held-out training images.

usage: python experiments/mat_weights.py --data mnist --setting mnist-vgg-small --so 0 1 10 --bibo 0 1 3
           --out runs/mat-weights --results results

One training a pair of weights, of the recipe `mat`; then PGD-50 on the cross-entropy of inner products with the
centres, as MAT attacks (its Sec. 3.3), and on their margin, which has no softmax that could saturate. The images
are the recipe's validation split, no test images. Finished runs are reused. The numbers are added to `mat-weights.csv`,
from which `make tables` makes a table for every data set.
"""

import argparse
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from corral.attacks import pgd
from corral.data import load
from corral.files import write_atomically
from corral.models.fingerprint import fingerprint
from corral.papers.definition import load_setting
from corral.papers.store import Store
from corral.records import environment, now
from corral.report.table.markdown import rows_of
from corral.training import Run, load_model, load_recipe, train
from corral.training.start import prepare_data

STEPS = 50
FILE = "mat-weights.csv"
COLUMNS = [
    *("data", "setting", "so", "bibo", "seed", "n", "eps", "clean", "cross_entropy", "margin", "length", "seconds"),
    *("model_fingerprint", "created", "corral", "torch", "python", "device", "threads", "platform"),
]


def measured(folder: Run, data_root: str | None) -> dict[str, float | str | int]:
    """Accuracies on the run's validation images, and the length of its features."""
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


def table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The rows as Markdown."""
    cells = [
        [
            f"{float(row['so']):g}, {float(row['bibo']):g}",
            *(f"{100 * float(row[key]):.1f}" for key in ("clean", "cross_entropy", "margin")),
            f"{float(row['length']):.1f}",
        ]
        for row in rows
    ]
    return rows_of(
        ["SO weight, BIBO weight", "clean", "PGD-50, cross-entropy", "PGD-50, margin", "length of features"], cells
    )


def read_rows(results: Path) -> list[dict[str, str]]:
    """The rows measured so far."""
    path = results / FILE
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def write_rows(results: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write all rows, by data set, seed and weights."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda r: (r["data"], int(r["seed"]), float(r["so"]), float(r["bibo"]))))
    write_atomically(results / FILE, text.getvalue().encode())


def table_of(results: Path, store: Store) -> str:
    """A table for every data set, of its lowest seed, as Markdown."""
    lines = ["# The weights of MAT's terms, on held-out training images", ""]
    found = read_rows(results)
    for data in dict.fromkeys(row["data"] for row in found):
        rows = [row for row in found if row["data"] == data]
        rows = [row for row in rows if row["seed"] == rows[0]["seed"]]
        first, latest = rows[0], max(row["created"] for row in rows)
        made = f"experiments/mat_weights.py, setting {first['setting']}, eps {float(first['eps']):.4g}, "
        made += f"{first['n']} images, seed {first['seed']}, {latest[:10]}, {first['device']}"
        lines += [f"## {data}", "", f"{made}; percent.", "", *table(rows), ""]
    return "\n".join(lines)


def main() -> None:
    """Train what is missing and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--setting", default=None, help="of corral/papers/settings.toml; default the recipe's own")
    parser.add_argument("--so", type=float, nargs="+", required=True)
    parser.add_argument("--bibo", type=float, nargs="+", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True, help=f"folder of {FILE}")
    given = parser.parse_args()
    load(given.data, root=given.data_root)
    for so in given.so:
        for bibo in given.bibo:
            weights = {"method.so_weight": so, "method.bibo_weight": bibo, "training.seed": given.seed}
            scaled = load_setting(given.setting).overrides(load_recipe("mat", data=given.data), weights)
            recipe = load_recipe("mat", data=given.data, overrides=scaled)
            folder = Run(given.out / f"{given.data}-{so:g}-{bibo:g}-{given.seed}")
            train(recipe, out=folder.path, resume=folder.recipe_file.is_file(), data_root=given.data_root)
            key = (given.data, str(so), str(bibo), str(given.seed))
            kept = {
                tuple(row[name] for name in ("data", "so", "bibo", "seed")): row for row in read_rows(given.results)
            }
            if kept.get(key, {}).get("model_fingerprint") != fingerprint(load_model(folder.path)[0]):
                said = {"data": given.data, "setting": given.setting or "", "so": so, "bibo": bibo, "seed": given.seed}
                made = {"created": now(), **environment(torch.device("cpu")).model_dump()}
                row = said | measured(folder, given.data_root) | made
                kept[key] = {name: str(value) for name, value in row.items()}
            write_rows(given.results, list(kept.values()))
    print("\n".join(table([row for row in read_rows(given.results) if row["data"] == given.data])))


if __name__ == "__main__":
    main()
