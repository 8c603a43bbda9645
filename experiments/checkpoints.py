"""Train the models that come with corral (src/corral/zoo), attack them, and write the card of each.

usage: python experiments/checkpoints.py [NAME ...] --out runs/checkpoints [--results results]

Each is a run folder's `model.safetensors`, `recipe.toml`, records and certificates: `corral.load("corral/NAME")` gives
the classifier. Its measurements are in the CSV files of the results, table `checkpoints`, and its `card.md` is made
from them. tests/test_checkpoints.py measures it again. A model that lies in src/corral/zoo is not trained again.
"""

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import certified
import compare
from corral import zoo
from corral.data import load
from corral.documents import write_document
from corral.evaluation.certificate import read_certificate
from corral.evaluation.certification import certify_run
from corral.files import write_atomically
from corral.papers.definition import load_setting
from corral.papers.entries import row_entries
from corral.papers.lines import AttackLine, RowKey, RowLine
from corral.papers.store import Store, changing, read_store
from corral.records import read_record
from corral.report.table.markdown import rows_of
from corral.report.words import attack_title, eps_words
from corral.training import Run, load_recipe, train

TABLE = "checkpoints"
# Number of images of PGD and of AutoAttack, class-balanced; AutoAttack takes most of the time.
QUICK, STANDARD = 200, {"digits": 100, "mnist": 50}
RADII = [0.1, 0.25, 0.5]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's recipe, data, the setting of settings.toml that makes it small, its purpose, and its own limit."""

    recipe: str
    data: str
    setting: str | None
    about: str
    limit: str = ""


CHECKPOINTS = {
    "digits-nominal": Checkpoint(
        "nominal",
        "digits",
        None,
        "natural training, a linear head: nothing is robust",
        "It was trained for no threat; it is attacked at the radius of the other models of digits.",
    ),
    "digits-at": Checkpoint("at", "digits", None, "PGD training, a linear head"),
    "digits-clustr": Checkpoint(
        "clustr-published",
        "digits",
        None,
        "ClusTR as released: trained on exponentiated scores, which mask gradients",
        "It is loaded with log-space logits, in which an audit finds nothing masked. PGD on the scores that it was "
        "trained on overstates its robust accuracy, as published; notebooks/break_a_masked_defence.ipynb shows both.",
    ),
    "digits-corral": Checkpoint("corral", "digits", None, "clusters in log space, adversarially trained"),
    "digits-certified": Checkpoint(
        "certified",
        "digits",
        None,
        "a 1-Lipschitz network with certified l2 radii",
        "Its certificates are of l2 balls around these images, for the float32 model on the processor that ran it.",
    ),
    "mnist-at": Checkpoint("at", "mnist", "mnist-small", "PGD training, a linear head"),
    "mnist-corral": Checkpoint("corral", "mnist", "mnist-small", "clusters in log space, adversarially trained"),
}


def trained(name: str, out: Path) -> Run:
    """The run of a checkpoint, trained if it is missing."""
    one, folder = CHECKPOINTS[name], Run(out / name)
    shipped = load_recipe(one.recipe, data=one.data)
    overrides: dict[str, Any] = load_setting(one.setting).overrides(shipped, {"training.seed": 0})
    recipe = load_recipe(one.recipe, data=one.data, overrides=overrides)
    if (zoo.FOLDER / name).is_dir():
        shutil.copytree(zoo.FOLDER / name, folder.path, dirs_exist_ok=True)
    train(recipe, out=folder.path, resume=folder.recipe_file.is_file(), device="cpu")
    return folder


def measured(name: str, folder: Run) -> Store:
    """A checkpoint's rows in the CSV files: PGD, AutoAttack and, where there are any, certificates."""
    one = CHECKPOINTS[name]
    key = RowKey(table=TABLE, scale="", changed="", data=one.data, beside="", row=name)
    found, lines = Store(), []
    for protocol, n in (("quick", QUICK), ("standard", STANDARD[one.data])):
        result = compare.seed_result(folder, 0, [compare.measured(folder, n, protocol)])
        eps = result.records[1.0][0].eps
        store = row_entries(key, [result], recipe=one.recipe, rule=None, eps=eps, columns="")
        lines += store.rows[key]
        found.add(store)
    if one.recipe == "certified":
        certificate = certify_run(folder.path, n=QUICK, radii=[0.0, *RADII])
        store = certified.certificate_entries(TABLE, name, folder.path.name, certificate)
        lines += store.rows[key]
        store.runs = {}
        found.add(store)
    evaluations, analyses = (" ".join(filter(None, (getattr(line, which) for line in lines))) for which in
                             ("evaluations", "analyses"))  # fmt: skip
    found.rows[key] = [lines[0].model_copy(update={"evaluations": evaluations, "analyses": analyses})]
    return found


def ship(name: str, folder: Run) -> None:
    """Copy a run into the package; its records and certificates call it by the name that it has there."""
    target = zoo.FOLDER / name
    target.mkdir(parents=True, exist_ok=True)
    for path in (folder.model_file, folder.recipe_file):
        shutil.copyfile(path, target / path.name)
    for part, read in (("records", read_record), ("certificates", read_certificate)):
        for path in sorted((folder / part).glob("*.json")):
            document = read(path)
            write_document(document.model_copy(update={"run": f"{zoo.PREFIX}/{name}"}), target / part / path.name)
            shutil.copyfile(path.with_suffix(".npz"), (target / part / path.name).with_suffix(".npz"))


def card_of(name: str, store: Store) -> str:
    """A checkpoint's description and its measurements, from the CSV files."""
    line = next(lines[0] for key, lines in store.of_table(TABLE, "", "").items() if key.row == name)
    groups = [store.attacks[evaluation] for evaluation in line.evaluations.split()]
    first = groups[0][0]
    run = store.runs[first.run, line.fingerprint]
    versions = f"corral {first.corral}, torch {first.torch}, python {first.python}, {first.device}"
    facts = [
        ("data", f"{run.data}, images {run.data_fingerprint}"),
        ("recipe", f"`{run.recipe}`, whole in `recipe.toml`; method `{run.method}`, head {_head(run.head, run.rule)}"),
        (
            "trained for",
            f"{run.norm} eps {eps_words(run.eps)}, seed {run.seed}, {run.train_seconds:.0f} s of the clock",
        ),
        ("weights", f"fingerprint {run.fingerprint}"),
        ("measured with", f"{versions}, {first.threads} thread(s), {max(group[0].created for group in groups)}"),
    ]
    text = [f"# {name}", "", f"{CHECKPOINTS[name].about[:1].upper()}{CHECKPOINTS[name].about[1:]}.", ""]
    text += ["```python", f'model = corral.load("corral/{name}")', "```", ""]
    text += ["| | |", "| --- | --- |", *(f"| {title} | {words} |" for title, words in facts), ""]
    text += rows_of(
        ["protocol", "attack", "threat", "robust of n", "percent"], [_cells(one) for group in groups for one in group]
    )
    n = {group[0].protocol: group[0].n for group in groups}
    again = [f"`corral evaluate corral/{name} --n {n['quick']}`"]
    again += [f"`corral evaluate corral/{name} --protocol standard --n {n['standard']}`"]
    if run.recipe == "certified":
        radii = " ".join(f"--radius {radius}" for radius in (0, *RADII))
        again += [f"`corral certify corral/{name} --n {QUICK} {radii}`"]
    text += ["", f"Evaluation seed 0; images are class-balanced. To measure it again: {', '.join(again)}.", ""]
    return "\n".join([*text, "## Limits", "", *(f"- {words}" for words in _limits(name, n)), ""])


def _limits(name: str, n: dict[str, int]) -> list[str]:
    """What a card's numbers do not say."""
    one = CHECKPOINTS[name]
    few = n["standard"]
    return [
        f"A small network for examples and tests. Do not compare its accuracy with published models of {one.data}.",
        f"AutoAttack met {few} images: one image is {100 / few:g} points, and the binomial standard error is up to "
        f"{50 / few**0.5:.1f} points.",
        "One training seed. Accuracies are for the threat above alone, not for other norms, radii or corruptions.",
        *([one.limit] if one.limit else []),
    ]


def _head(head: str, rule: str | None) -> str:
    return head if rule is None else f"{head}, rule {rule}"


def _cells(line: AttackLine) -> list[str]:
    title = {"clean": "no attack", "certified": "certified", "attacked": "DDN, bisectors and PGD"}.get(line.attack)
    threat = "–" if line.attack == "clean" else f"{line.norm} {eps_words(line.eps)}"
    count = f"{line.robust} of {line.n}"
    return [line.protocol, title or attack_title(line.attack), threat, count, f"{100 * line.accuracy:.1f}"]


def cards(store: Store) -> dict[Path, bytes]:
    """Every card, and the list of them."""
    names = [key.row for key in store.of_table(TABLE, "", "") if key.row in CHECKPOINTS]
    found = {zoo.FOLDER / name / "card.md": card_of(name, store).encode() for name in names}
    if names:
        found[zoo.FOLDER / "README.md"] = _list(sorted(names, key=list(CHECKPOINTS).index), store).encode()
    return found


def _list(names: Sequence[str], store: Store) -> str:
    rows = {key.row: lines[0] for key, lines in store.of_table(TABLE, "", "").items()}
    table = [[f"[{name}]({name}/card.md)", CHECKPOINTS[name].about, *_summary(rows[name], store)] for name in names]
    head = ["checkpoint", "what it is", "threat", "clean", f"PGD, {QUICK} images", "AutoAttack", "of images"]
    intro = (
        'Small trained models that come with corral; `corral.load("corral/digits-at")` and every command that takes a '
        "run take their names, and `corral models` lists them."
    )
    made = "`python experiments/checkpoints.py` made them; tests/test_checkpoints.py measures them again. Percent."
    return "\n".join(["# Models that come with corral", "", intro, made, "", *rows_of(head, table), ""])


def _summary(line: RowLine, store: Store) -> list[str]:
    quick, standard = (store.attacks[name] for name in line.evaluations.split()[:2])
    worst = [next(one for one in group if one.attack == "worst_case") for group in (quick, standard)]
    threat = f"{worst[0].norm} {eps_words(worst[0].eps)}"
    return [threat, *(f"{100 * one.accuracy:.1f}" for one in (quick[0], *worst)), str(worst[1].n)]


def main() -> None:
    """Make the checkpoints that are named, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CHECKPOINTS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--results", type=Path, default=Path("results"))
    given = parser.parse_args()
    if unknown := sorted(set(given.names) - CHECKPOINTS.keys()):
        parser.error(f"no checkpoint {unknown[0]!r}; known: {', '.join(CHECKPOINTS)}")
    for name in given.names or CHECKPOINTS:
        load(CHECKPOINTS[name].data)
        folder = trained(name, given.out)
        found = measured(name, folder)
        with changing(given.results) as store:
            store.add(found)
        ship(name, folder)
        for path, content in cards(read_store(given.results)).items():
            write_atomically(path, content)
        print(card_of(name, read_store(given.results)), flush=True)


if __name__ == "__main__":
    main()
