"""Runs as RobustBench's model_info: one JSON file a run in the folders that its leaderboard is made from."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from corral.checkpoints import read_checkpoint
from corral.data.given import is_own
from corral.errors import CorralError
from corral.files import check_recordable, write_atomically
from corral.records import Record
from corral.report.runs.collect import read_run
from corral.report.words import AUTOATTACK, WORST_CASE, eps_words, slug
from corral.training import Run, load_recipe
from corral.zoo import is_shipped, located

# Its leaderboards of perturbations.
NORMS = ("Linf", "L2")


def write_model_info(runs: Sequence[Path | str], *, folder: Path | str) -> list[Path]:
    """Write the model_info of evaluated runs to FOLDER/DATA/NORM/RUN.json, as RobustBench has it.

    Its figures are those of AutoAttack on a whole test set, so a run needs such a record: `corral evaluate RUN
    --protocol standard`. `external` is the worst case per image with every other attack in the run's records, where
    that is lower. What a run does not know, `link`, `authors` and `venue`, is empty; `name` is the recipe's source. Of
    a model that is no run `additional_data` is null: fill it in.

    Args:
        runs: run folders.
        folder: made where it is absent; older files of the same runs are replaced.

    Returns:
        The files that were written, one a run and radius.

    Raises:
        CorralError: a run without a record of AutoAttack on its whole test set, or of data that are no named set; a
            record that is missing or broken; or a file that cannot be written.
    """
    check_recordable(*runs, folder)
    made: dict[Path, dict[str, Any]] = {}
    for run in runs:
        place = located(run)
        records = _whole(place)
        for record in records:
            name = record.run if record.kind == "run" and not is_shipped(record.run) else slug(record.run)
            name = name if len(records) == 1 else f"{name}-{slug(eps_words(record.eps))}"
            path = Path(folder) / record.data / record.norm / f"{name}.json"
            if path in made:
                raise CorralError(f"{run}: another run would be written to {path} too; give them names of their own")
            made[path] = model_info(record, place)
    for path, info in made.items():
        write_atomically(path, (json.dumps(info, indent=2) + "\n").encode())
    return list(made)


def model_info(record: Record, folder: Path) -> dict[str, Any]:
    """RobustBench's fields of a run's record with AutoAttack; accuracies are percentages as text."""
    accuracy = {attack.name: attack.accuracy for attack in record.attacks}
    robust, worst = accuracy[AUTOATTACK], accuracy.get(WORST_CASE, 1.0)
    spec, began, more, source = _training(folder)
    claimed = robust if record.reported is None else record.reported.robust
    notes = [f"{record.n:,} test images; AutoAttack standard of corral {record.environment.corral}", *record.notes[:1]]
    notes += ["begins from given weights"] if began else []
    notes += [f"edited since it was written: {', '.join(record.edited)}"] if record.edited else []
    return {
        "link": "",
        "name": source or (f"{record.recipe} (corral)" if record.recipe else record.run),
        "authors": "",
        "additional_data": began or more if record.kind == "run" else None,
        "number_forward_passes": 1,
        "dataset": record.data,
        "venue": "",
        "architecture": _architecture(spec, record),
        "eps": eps_words(record.eps),
        "clean_acc": _percent(record.clean),
        "reported": _percent(claimed),
        "autoattack_acc": _percent(robust),
        **({"external": _percent(worst)} if worst < robust else {}),
        "footnote": "; ".join([*notes, f"model {record.model_fingerprint}"]) + ".",
    }


def _whole(folder: Path) -> list[Record]:
    """The records with AutoAttack on the whole test set."""
    held = [record for record, *_ in read_run(folder)]
    known = [record for record in held if any(attack.name == AUTOATTACK for attack in record.attacks)]
    remedy = f"make one with `corral evaluate {folder} --protocol standard`"
    if not known:
        raise CorralError(f"{folder}: RobustBench lists AutoAttack, and no record here has it; {remedy}")
    whole = [record for record in known if not record.reduced]
    if not whole:
        raise CorralError(
            f"{folder}: RobustBench's figures are of whole test sets, AutoAttack met {known[0].n:,} of "
            f"{known[0].n_test:,} images here; {remedy}, without --n"
        )
    for record in whole:
        named = not (":" in record.data or is_own(record.data))
        if not named or record.norm not in NORMS:
            what = record.norm if named else record.data
            raise CorralError(
                f"{folder}: RobustBench's leaderboards are of named data sets in {' and '.join(NORMS)}, found {what}; "
                "leave this run out"
            )
    return whole


def _training(folder: Path) -> tuple[dict[str, Any], bool, bool, str]:
    """The backbone's spec, whether weights were given, whether there were images beside the labelled, the source."""
    run = Run(folder)
    metadata = read_checkpoint(run.model_file, kind="model")[1] if run.model_file.is_file() else {}
    backbone = (metadata.get("spec") or {}).get("backbone") or {}
    began = (metadata.get("info") or {}).get("started_from") is not None
    recipe = load_recipe(folder) if run.recipe_file.is_file() else None
    more = recipe is not None and bool(recipe.data.unlabeled)
    return backbone, began, more, "" if recipe is None else recipe.source


def _architecture(backbone: dict[str, Any], record: Record) -> str:
    """The backbone with its options, and the head; of a model that is not corral's its name."""
    if record.head is None:
        return record.run
    options = ", ".join(f"{name} {value}" for name, value in backbone.items() if name != "name")
    head = f"{record.head} head" if record.rule is None else f"{record.head} head, rule {record.rule}"
    return f"{backbone['name']} ({options}), {head}" if backbone else head


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"
