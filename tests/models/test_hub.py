"""Folders and repositories of the Hugging Face Hub: what is written, read, refused, and said of it."""

import base64
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torch import nn

import corral
from corral.errors import CorralError, UsageError
from corral.evaluation.evaluate import evaluate
from corral.models import BACKBONES, Classifier, ClusterHead, ModelSpec, build_classifier

SPEC = {"backbone": {"name": "mlp", "hidden": [8], "features": 4}, "image_shape": (1, 4, 4), "num_classes": 2}
CARD = "README.md"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "hub.md"
SMALLER = 'attacks=["fgsm"], n=20, progress=False'
SPEC |= {"mean": (0.5,), "std": (0.25,), "head": {"name": "cluster", "clusters": 4}}


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = build_classifier(ModelSpec.model_validate(SPEC))
    made.head.refit(torch.randn(4, 4), torch.tensor([0, 0, 1, 1]), 0.5)
    made.spec, made.class_names = ModelSpec.model_validate(SPEC), ("up", "[a](b)|<i>")
    return made.eval()


@pytest.fixture
def images():
    return torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 2


@pytest.fixture
def record(model, images):
    return evaluate(model, images, threat=("Linf", 4 / 255), attacks=["fgsm", "pgd:steps=2"], n=8, progress=False)


def test_a_folder_gives_the_same_classifier_again(model, images, tmp_path):
    assert model.save_pretrained(tmp_path / "folder") == tmp_path / "folder"
    assert {path.name for path in (tmp_path / "folder").iterdir()} == {"model.safetensors", "config.json", "README.md"}
    for source in (tmp_path / "folder", str(tmp_path / "folder")):
        again = Classifier.from_pretrained(source)
        assert torch.equal(again(images[0]), model(images[0]))
        assert (again.class_names, again.training) == (model.class_names, False)
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert (config["image_shape"], config["num_classes"], config["needs_backbone"]) == ([1, 4, 4], 2, False)
    assert config["backbone"]["name"] == "mlp"
    assert config["classes"] == list(model.class_names)


def metadata(text):
    """The card's metadata; every value is JSON, which YAML contains."""
    return {key: json.loads(value) for key, value in re.findall(r"^([\w-]+): (.*)$", text.split("---\n")[1], re.M)}


def test_the_card_states_what_was_measured_and_what_was_not(model, record, tmp_path):
    text = (model.save_pretrained(tmp_path / "m", record=record, name="me/m", license="mit") / CARD).read_text()
    about = metadata(text)
    assert (about["library_name"], about["license"]) == ("corral", "mit")
    (result,) = about["model-index"][0]["results"]
    assert result["metrics"][0] == {"type": "accuracy", "name": "accuracy without attack, n = 8", "value": record.clean}
    assert [one["value"] for one in result["metrics"][1:]] == [one.accuracy for one in record.attacks]
    assert 'model = corral.Classifier.from_pretrained("me/m")' in text
    for one in record.attacks:
        assert f"| {one.name.replace('_', chr(92) + '_')} | Linf 4/255 | {100 * one.accuracy:.1f} | 8 |" in text
    assert f"corral {corral.__version__}, torch {torch.__version__}" in text
    measured, missing = text.split("## Not measured")
    assert f"fingerprint {record.data_fingerprint}" in measured
    for words in ("L2 and L1", "other 4 of 12 test images", "AutoAttack", "adapted to this model", "certified"):
        assert words in missing
    assert r"\[a\](b)\|\<i\>" in text


def test_a_card_without_records_says_that_nothing_was_measured(model, tmp_path):
    text = (model.save_pretrained(tmp_path / "m") / CARD).read_text()
    assert "Nothing was measured" in text
    assert "model-index" not in metadata(text)
    assert "## Measured" not in text


def test_a_card_is_yaml_for_a_yaml_reader(model, record, tmp_path):
    yaml = pytest.importorskip("yaml")
    text = (model.save_pretrained(tmp_path / "m", record=record, name="a: #b") / CARD).read_text()
    assert yaml.safe_load(text.split("---\n")[1]) == metadata(text)


def test_the_client_of_the_hub_reads_the_card_s_results(model, record, tmp_path):
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    found = hub.ModelCard.load(model.save_pretrained(tmp_path / "m", record=record) / CARD).data.eval_results
    assert [one.metric_value for one in found] == [record.clean, *(one.accuracy for one in record.attacks)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    small = {"data.train": 60, "width": 4, "model.features": 8, "epochs": 1}
    return corral.train("nominal", out=tmp_path_factory.mktemp("hub") / "run", progress=False, **small)


def test_the_page_s_python_runs(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
    # The same lines with a run of this test, a folder in the Hub's place and a smaller attack.
    code = re.sub(r"model\.push_to_hub\([^)]*\)", "", code).replace('"runs/a"', "run").replace('"cifar10"', '"digits"')
    code = code.replace('"user/a", revision="3f1c..."', '"shared/a"').replace('protocol="standard"', SMALLER)
    names = {"run": run}
    exec(code, names)
    assert torch.equal(names["model"].head.linear.weight, run.model.head.linear.weight)
    assert "worst" not in (tmp_path / "shared" / "a" / CARD).read_text()


def test_what_is_refused(model, record, run, tmp_path):
    other = evaluate(
        nn.Sequential(nn.Flatten(), nn.Linear(16, 2)),
        (torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 0, 1])),
        threat=("L2", 0.5), attacks=["fgsm"], progress=False,
    )  # fmt: skip
    with pytest.raises(UsageError, match="record of Sequential: of a model with fingerprint"):
        model.save_pretrained(tmp_path / "m", record=[record, other])
    assert not (tmp_path / "m").exists()
    before = run.model_file.read_bytes()
    with pytest.raises(UsageError, match="run: holds another model, such as a run's; choose another folder"):
        model.save_pretrained(run)
    assert run.model_file.read_bytes() == before
    assert Classifier.from_pretrained(run).num_classes == 10  # a run is a folder with a model too
    (tmp_path / "empty").mkdir()
    for source, words in (
        (tmp_path / "empty", "no model.safetensors in this folder"),
        (tmp_path / "absent", "no such folder, and no name of a repository, which is user/name"),
        ("../a/b", "no such folder, and no name of a repository, which is user/name"),
    ):
        with pytest.raises(UsageError, match=words):
            Classifier.from_pretrained(source)
    with pytest.raises(UsageError, match="a folder has no revisions"):
        Classifier.from_pretrained(run, revision="main")


def test_a_backbone_of_one_s_own_is_given_again_and_no_path_leaves_the_machine(tmp_path, images, monkeypatch):
    code = "from torch import nn\n\n\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(16, 4))\n"
    (tmp_path / "net.py").write_text(code)
    x, y = images
    model = corral.cluster(f"{tmp_path / 'net.py'}:build", (x, y), clusters=2, progress=False)
    expected, folder = model(x), model.save_pretrained(tmp_path / "m", name="me/m")
    everything = b"".join(path.read_bytes() for path in folder.iterdir())
    assert str(tmp_path).encode() not in everything
    assert 'from_pretrained("me/m", backbone=network)' in (folder / CARD).read_text()
    assert json.loads((folder / "config.json").read_text())["needs_backbone"] is True
    BACKBONES._held.clear()  # another process
    (tmp_path / "m" / "net.py").write_text("raise SystemExit('code of a repository')\n")
    monkeypatch.chdir(tmp_path / "m")
    with pytest.raises(CorralError, match=r"its backbone 'net.py:build' is not known here: if you trust this code"):
        Classifier.from_pretrained(folder)
    again = Classifier.from_pretrained(folder, backbone=lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 4)))
    assert torch.equal(again(x), expected)
    BACKBONES._held.clear()


def test_without_the_client_it_is_one_line(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"the Hugging Face Hub needs huggingface_hub: pip install 'corral\[hub\]'"):
        model.push_to_hub("me/m")
    with pytest.raises(UsageError, match="me/m is no folder here, and a repository of the Hub needs huggingface_hub"):
        Classifier.from_pretrained("me/m")


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as a small upload and a download ask for."""

    files, asked, COMMIT = {}, [], "c" * 40

    def log_message(self, *_):
        pass

    def answer(self, body, status=200, **headers):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked.append((self.path, self.headers.get("Authorization")))
        if self.path == "/api/repos/create":
            return self.answer({"url": f"http://{self.headers['Host']}/me/m", "name": "me/m", "id": "me/m"})
        if self.path == "/api/validate-yaml":  # the client asks for it before it uploads a card
            return self.answer({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            return self.answer(
                {"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]}
            )
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"http://{self.headers['Host']}/me/m/commit/{self.COMMIT}"
            return self.answer({"success": True, "commitUrl": url, "commitOid": self.COMMIT, "hookOutput": ""})
        return self.answer({"error": "unknown"}, 404)

    def do_GET(self):
        self.asked.append((self.path, self.headers.get("Authorization")))
        found = re.fullmatch(r"/me/m/resolve/(\w+)/(.+)", self.path)
        if found and found[1] == "main" and found[2] in self.files:
            content = self.files[found[2]]
            return self.answer(content, ETag=f'"{hash(content):x}"', X_Repo_Commit=self.COMMIT)
        if found:
            kind = "RevisionNotFound" if found[1] != "main" else "EntryNotFound"
            return self.answer({"error": kind}, 404, X_Error_Code=kind, X_Error_Message=f"no {found[1]}")
        if self.path.startswith("/api/models/me/m"):
            return self.answer({"id": "me/m", "sha": self.COMMIT, "siblings": []})
        return self.answer({"error": "none"}, 404, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")

    do_HEAD = do_GET  # noqa: N815


CLIENT = """
import sys, torch, corral
from corral.errors import CorralError
model = corral.Classifier.from_pretrained(sys.argv[1])
print(model.push_to_hub("me/m", token="hf_secret"))
again = corral.Classifier.from_pretrained("me/m", token="hf_secret")
x = torch.rand(3, 1, 4, 4)
assert torch.equal(again(x), model(x))
for name, revision in (("me/m", "other"), ("me/absent", None)):
    try:
        corral.Classifier.from_pretrained(name, revision=revision)
    except CorralError as error:
        print(error)
"""


def test_the_hub_over_http(model, tmp_path):
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    folder = model.save_pretrained(tmp_path / "m", name="me/m")
    own = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "home")}
    own |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", CLIENT, str(folder)], env=os.environ | own, capture_output=True, text=True
        )
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 0, done.stderr
    address, *refused = done.stdout.splitlines()
    assert address.endswith("/me/m")
    assert [line.split(": the Hub refused or was not reached (")[0] for line in refused] == ["me/m", "me/absent"]
    assert "RevisionNotFound" in refused[0]
    assert Hub.files.keys() == {"config.json", "README.md", "model.safetensors"}
    for name in ("config.json", "README.md"):
        assert Hub.files[name] == (folder / name).read_bytes()
    fetched = {path for path, _ in Hub.asked if "/resolve/" in path}
    assert {path.rpartition("/")[2] for path in fetched} == {"model.safetensors"}
    assert ("/api/repos/create", "Bearer hf_secret") in Hub.asked


def test_a_head_of_clusters_and_its_kind_are_in_the_card(model, tmp_path):
    assert isinstance(model.head, ClusterHead)
    text = (model.save_pretrained(tmp_path / "m") / CARD).read_text()
    assert "| head | cluster (rule soft, clusters 4) |" in text
