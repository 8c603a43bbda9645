"""Training, attacks, records, certificates and analyses on digits as fingerprints, to compare two versions of the code.

usage: python experiments/unchanged.py write FILE      on the version before
       python experiments/unchanged.py compare FILE    on the version after; exit 1 and a line for each difference

It trains every shipped recipe for an epoch on a few digits, runs every attack on a committed checkpoint, and writes a
record by each command. Times, paths and versions are excluded; everything else must be equal to the last bit. It takes
some minutes of one core; results differ between machines, so write and compare on the same one.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

import corral
from corral.errors import CorralError
from corral.training import load_recipe, shipped_recipes, train

CHECKPOINTS = Path(__file__).resolve().parents[1] / "src" / "corral" / "zoo"
VOLATILE = ("second", "time", "date", "version", "path", "host", "platform", "created", "minutes", "per_s")
VOLATILE += ("sha256", "format", "edited")
# Recipes that start from another one's weights, and from whose.
STARTS = {
    **dict.fromkeys(("slf", "alf", "nearest", "soft", "aff", "deacl", "ncp-acl", "dynacl++", "dynacl-air++"), "simclr"),
    "at-pretrained": "nominal",
}


def digest(tensors: dict[str, Tensor]) -> str:
    """The first 16 hex digits of the SHA-256 of names and bytes."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode() + tensors[name].detach().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def settings(name: str, folder: Path) -> dict[str, Any]:
    """The settings that reduce a recipe to an epoch on a few digits."""
    recipe = load_recipe(name)
    changed: dict[str, Any] = {"model.width": 4, "training.epochs": 1, "training.batch_size": 60, "data.train": 240}
    if recipe.model.backbone == "resnet":
        changed |= {"data.train": 120, "model.depth": 10}
    else:
        changed["model.features"] = 16
    if recipe.training.warm_start.epochs:
        changed["training.warm_start.epochs"] = 1
    if recipe.training.milestones:
        changed |= {"training.milestones": None, "training.schedule": None}
    if name == "ncp-acl":
        changed["method.clusters"] = [5, 8]
    if name == "advcl":
        changed |= {"method.labeller": str(folder / "simclr"), "method.clusterings": [2, 5]}
    if "probe_epochs" in recipe.method.model_dump():
        changed["method.probe_epochs"] = 2
    if name in STARTS:
        changed["training.start"] = str(folder / STARTS[name])
    return changed


def trainings(folder: Path) -> Iterator[tuple[str, str]]:
    """Each shipped recipe's weights after its epoch, or the line that refuses it."""
    for name in sorted(shipped_recipes(), key=lambda name: (name not in STARTS.values(), name)):
        try:
            run = train(name, out=folder / name, progress=False, device="cpu", **settings(name, folder))
            yield f"train {name}", digest(load_file(str(Path(run) / "model.safetensors")))
        except CorralError as error:
            yield f"train {name}", str(error).replace(str(folder), "FOLDER")


def attacks() -> dict[str, Callable[..., Any]]:
    """Calls of every attack, by their printed name."""
    found: dict[str, Callable[..., Any]] = {}
    for norm, eps in (("Linf", 0.2), ("L2", 0.8), ("L1", 6.0)):
        budget = {"eps": eps, "norm": norm}
        if norm != "L1":
            for loss in ("cross_entropy", "dlr", "margin"):
                found[f"pgd {norm} {loss}"] = lambda *to, b=budget, o=loss: corral.attacks.pgd(
                    *to, **b, steps=5, step_size=b["eps"] / 4, objective=o, generator=torch.Generator().manual_seed(1)
                )
            found[f"fgsm {norm}"] = lambda *to, b=budget: corral.attacks.fgsm(*to, **b)
            found[f"mi_fgsm {norm}"] = lambda *to, b=budget: corral.attacks.mi_fgsm(*to, **b, steps=5)
        for loss, targets in (("cross_entropy", 0), ("dlr", 0), ("dlr", 3)):
            found[f"apgd {norm} {loss} {targets}"] = lambda *to, b=budget, o=loss, t=targets: corral.attacks.apgd(
                *to, **b, steps=12, objective=o, targets=t, seed=1
            )
        found[f"fab {norm}"] = lambda *to, b=budget: corral.attacks.fab(*to, **b, steps=8, targets=3, seed=1)
        found[f"square {norm}"] = lambda *to, b=budget: corral.attacks.square(*to, **b, queries=60, seed=1)
        found[f"autoattack {norm}"] = lambda *to, b=budget: corral.attacks.autoattack(*to, **b, seed=1)
    found["ddn"] = lambda *to: corral.attacks.ddn(*to, steps=20)
    found["carlini_wagner"] = lambda *to: corral.attacks.carlini_wagner(*to, steps=20, searches=2)
    found["deepfool"] = lambda *to: corral.attacks.deepfool(*to)
    return found


def tensors_of(found: Any) -> dict[str, Tensor]:
    """The tensors of an attack's outcome, or of a tuple or a dataclass of them."""
    if isinstance(found, Tensor):
        return {"x_adv": found}
    given = found if isinstance(found, dict) else vars(found) if hasattr(found, "__dict__") else found._asdict()
    return {name: value for name, value in given.items() if isinstance(value, Tensor)}


def attacked() -> Iterator[tuple[str, str]]:
    """Each attack's images on two checkpoints."""
    images = corral.data.load("digits").test.take(torch.arange(24))
    for checkpoint in ("digits-at", "digits-corral"):
        model = corral.load(CHECKPOINTS / checkpoint)
        for name, call in attacks().items():
            try:
                yield f"{name} on {checkpoint}", digest(tensors_of(call(model, images.float(), images.labels)))
            except (CorralError, TypeError, ValueError) as error:
                yield f"{name} on {checkpoint}", f"{type(error).__name__}: {error}"


def without_volatile(thing: Any) -> Any:
    """A JSON document without times, paths and versions."""
    if isinstance(thing, dict):
        return {
            k: without_volatile(v)
            for k, v in thing.items()
            if k != "target" and not any(word in k for word in VOLATILE)
        }
    if isinstance(thing, list):
        return [without_volatile(item) for item in thing]
    return thing


def leaves(thing: Any, name: str) -> Iterator[tuple[str, str]]:
    """The values of a JSON document, by where they are; long lists as one digest."""
    if isinstance(thing, dict):
        for key, value in thing.items():
            yield from leaves(value, f"{name} {key}")
    elif isinstance(thing, list) and len(json.dumps(thing)) > 400:
        yield name, hashlib.sha256(json.dumps(thing).encode()).hexdigest()[:16]
    else:
        yield name, json.dumps(thing)


def commands(folder: Path) -> Iterator[tuple[str, str]]:
    """The documents that the commands write about checkpoints."""
    runs = {name: folder / name for name in ("digits-corral", "digits-clustr", "digits-certified")}
    for name, run in runs.items():
        run.mkdir()
        for part in ("model.safetensors", "recipe.toml"):  # not its records
            shutil.copyfile(CHECKPOINTS / name / part, run / part)
    corral_run, released, certified = (str(run) for run in runs.values())
    for words in (
        ["evaluate", corral_run, "--protocol", "quick", "--n", "60"],
        ["evaluate", corral_run, "--protocol", "autoattack", "--n", "40"],
        ["evaluate", released, "--protocol", "paper", "--n", "40"],
        ["certify", corral_run, certified, "--n", "40"],
        ["analyze", corral_run, released],
        ["audit", released, "--minutes", "5", "--n", "40", "--out", str(folder / "audit")],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "corral", *words],
            capture_output=True,
            text=True,
            env={**os.environ, "COLUMNS": "200"},
        )
        title = " ".join(words[:1] + [Path(word).name for word in words[1:]])
        yield title, f"exit {done.returncode}" + (f" {done.stderr.strip()[-300:]}" if done.returncode else "")
    for document in sorted(folder.rglob("*.json")):
        yield from leaves(
            without_volatile(json.loads(document.read_text(encoding="utf-8"))), str(document.relative_to(folder))
        )


def everything() -> dict[str, str]:
    """Every fingerprint, printed as it is computed."""
    torch.set_num_threads(1)
    found = {}
    for part in (trainings, lambda _: attacked(), commands):
        with tempfile.TemporaryDirectory() as folder:
            for name, value in part(Path(folder)):
                found[name] = value
                print(f"{name}: {value}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["write", "compare"])
    parser.add_argument("file", type=Path)
    given = parser.parse_args()
    found = everything()
    if given.what == "write":
        given.file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return
    before = json.loads(given.file.read_text(encoding="utf-8"))
    names = [name for name in before | found if before.get(name) != found.get(name)]
    for name in names:
        print(f"DIFFERS {name}: {before.get(name)} -> {found.get(name)}")
    print(f"{len(names)} of {len(before | found)} differ")
    sys.exit(bool(names))


if __name__ == "__main__":
    main()
