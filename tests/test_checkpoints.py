"""The reference checkpoints: small, loadable, and as robust as their cards say."""

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import corral
from corral.data import load, stratified_subset
from corral.evaluation import evaluate
from corral.models.fingerprint import fingerprint
from corral.papers.store import read_store
from corral.records import read_record

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
FOLDER = ROOT / "src" / "corral" / "zoo"
sys.path.insert(0, str(ROOT / "experiments"))
TOOL = runpy.run_path(str(ROOT / "experiments" / "checkpoints.py"))
sys.path.pop(0)
CHECKPOINTS = TOOL["CHECKPOINTS"]
STORE = read_store(RESULTS)
LINES = {key.row: lines[0] for key, lines in STORE.of_table("checkpoints", "", "").items()}
NAMES = [
    pytest.param(name, marks=[pytest.mark.real_data] if one.data == "mnist" else [])
    for name, one in CHECKPOINTS.items()
]
# AutoAttack and MNIST's networks take ten to twenty seconds of an idle core each.
QUICK = {("digits-at", "standard"), *((param.values[0], "quick") for param in NAMES if not param.marks)}
EVALUATED = [
    pytest.param(name, protocol, marks=[*marks, *([] if (name, protocol) in QUICK else [pytest.mark.thorough])])
    for (name,), marks in ((param.values, param.marks) for param in NAMES)
    for protocol in ("quick", "standard")
]


@pytest.fixture(scope="session")
def mnist(shared, tmp_path_factory):
    """The real MNIST in its official files."""
    folder = tmp_path_factory.mktemp("mnist")
    subprocess.run([sys.executable, str(shared / "unpack.py"), str(folder), "mnist"], check=True, capture_output=True)
    return folder


@pytest.fixture
def root(name, request):
    """The folder of a checkpoint's data-set files; None for what scikit-learn has."""
    return request.getfixturevalue("mnist") if CHECKPOINTS[name].data == "mnist" else None


def measured(name, protocol):
    """How many images of how many the attacks of a protocol left."""
    groups = [STORE.attacks[evaluation] for evaluation in LINES[name].evaluations.split()]
    (lines,) = [lines for lines in groups if lines[0].protocol == protocol]
    return {line.attack: line.robust for line in lines}, lines[0].n


def test_there_is_a_folder_a_checkpoint_and_a_row_each():
    assert {path.parent.name for path in FOLDER.glob("*/card.md")} == CHECKPOINTS.keys() == LINES.keys()


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_is_below_a_megabyte_and_loads(name):
    folder = FOLDER / name
    files = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    documents = [f"records/quick-n200{ending}" for ending in (".json", ".npz")]
    documents += [f"records/standard-n{measured(name, 'standard')[1]}{ending}" for ending in (".json", ".npz")]
    if name == "digits-certified":
        documents += ["certificates/l2-n200.json", "certificates/l2-n200.npz"]
    assert files.keys() == {"model.safetensors", "recipe.toml", "card.md", *documents}
    assert sum(files.values()) < 1_000_000
    model = corral.load(FOLDER / name)
    assert not model.training
    assert fingerprint(model) == LINES[name].fingerprint


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_records_have_the_numbers_of_the_card(name):
    for protocol in ("quick", "standard"):
        robust, n = measured(name, protocol)
        record = read_record(FOLDER / name / "records" / f"{protocol}-n{n}.json")
        found = {attack.name: round(attack.accuracy * n) for attack in record.attacks}
        assert {"clean": round(record.clean * n), **found} == robust


@pytest.mark.parametrize("name", NAMES)
def test_the_clean_accuracy_is_that_of_the_card(name, root):
    test = load(CHECKPOINTS[name].data, root=root).test
    model = corral.load(FOLDER / name)
    for protocol in ("quick", "standard"):
        robust, n = measured(name, protocol)
        images = stratified_subset(test, n, seed=0)
        with torch.no_grad():
            right = int((model(images.float()).argmax(1) == images.labels).sum())
        assert right == robust["clean"], protocol


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("name", "protocol"), EVALUATED)
def test_the_robust_accuracy_is_that_of_the_card(name, root, protocol, tmp_path):
    shutil.copytree(FOLDER / name, tmp_path / "run")
    robust, n = measured(name, protocol)
    record = evaluate(tmp_path / "run", protocol=protocol, n=n, data_root=root, progress=False, device="cpu")
    found = {attack.name: round(attack.accuracy * n) for attack in record.attacks}
    assert found.keys() == robust.keys() - {"clean"}
    # Another processor rounds otherwise, and an attack's path parts there: an image of a hundred may fall or stay.
    assert all(abs(count - robust[attack]) <= n / 100 for attack, count in found.items()), (found, robust)
