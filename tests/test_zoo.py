"""The models that come with corral: by name wherever a run is taken, and nothing is written beside them."""

import json

import pytest
from typer.testing import CliRunner

import corral
from corral import cli, zoo
from corral.attacks.autoattack import standard_attacks
from corral.errors import CorralError, UsageError
from corral.models.fingerprint import fingerprint
from corral.report.runs.collect import collect
from corral.training import load_recipe

NAME = "corral/digits-at"
KNOWN = "the models of corral are corral/digits-at, corral/digits-certified, "


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder; the package's own has the same files afterwards."""
    before = sorted(zoo.FOLDER.rglob("*"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert [path for path in sorted(zoo.FOLDER.rglob("*")) if "__pycache__" not in path.parts] == [
        path for path in before if "__pycache__" not in path.parts
    ]


@pytest.fixture
def run(here, command_line):
    return command_line


def test_the_names_are_the_folders():
    assert zoo.names() == tuple(f"corral/{path.parent.name}" for path in sorted(zoo.FOLDER.glob("*/card.md")))
    assert NAME in zoo.names()


@pytest.mark.parametrize("name", zoo.names())
def test_records_are_of_the_weights_beside_them(name):
    weights = fingerprint(corral.load(name))
    pieces = collect([name])
    assert {piece.record.model_fingerprint for piece in pieces} == {weights}
    protocols = {protocol for piece in pieces for protocol in piece.record.protocol.split("+")}
    assert protocols == {"quick", "standard"}
    assert {piece.record.run for piece in pieces} == {name}


def test_a_folder_of_the_name_goes_before_the_model(here):
    assert zoo.is_shipped(NAME)
    settings = {"data.train": 100, "width": 4, "model.features": 8, "progress": False}
    made = corral.train("nominal", out=NAME, epochs=1, **settings)
    assert not zoo.is_shipped(NAME)
    assert fingerprint(corral.load(NAME)) == fingerprint(made.model)
    record = corral.evaluate(NAME, n=20, attacks=["fgsm"], progress=False)
    assert (record.run, record.recipe) == ("digits-at", "nominal")
    assert (here / NAME / "records" / "custom-n20.json").is_file()


def test_from_python_a_name_is_taken_where_a_run_is(here):
    model = corral.load(NAME)
    assert fingerprint(model) == fingerprint(corral.load(zoo.FOLDER / "digits-at"))
    record = corral.evaluate(NAME, n=20, attacks=["fgsm"], progress=False)
    assert (record.run, record.recipe, record.eps, record.n) == (NAME, "at", 0.1, 20)
    assert list(here.iterdir()) == []
    assert corral.evaluate(NAME, n=20, attacks=["fgsm"], progress=False, out="there").run == NAME
    assert corral.report([NAME, "there"], out="page.html").is_file()
    assert corral.certify("corral/digits-certified", n=10, attack=False, progress=False).clean > 0.8
    assert corral.analyze(NAME, only=["norms"], n=40, progress=False).keys() == {"norms"}
    clustered = corral.cluster(NAME, "digits", n=100, progress=False)
    assert clustered.head.clusters is not None
    assert corral.export(NAME, "model.ts").is_file()
    with pytest.raises(UsageError, match="needs out, the file"):
        corral.export(NAME)
    assert load_recipe(NAME) == load_recipe(zoo.FOLDER / "digits-at")
    begun = corral.train("at", out="begun", start=NAME, epochs=1, progress=False, **{"data.train": 60})
    assert begun.info.started_from is not None


def test_an_audit_takes_a_name(here, monkeypatch):
    monkeypatch.setattr("corral.audit.audit.standard_attacks", lambda *about: standard_attacks(*about)[:1])
    record = corral.audit("corral/digits-clustr", n=40, minutes=1, progress=False)
    assert (record.target, record.kind, record.eps) == ("corral/digits-clustr", "run", 0.1)


def test_from_the_shell_documents_go_where_those_of_other_models_go(run, here):
    assert run("evaluate", NAME, "--n", 20, "--attack", "fgsm", "--quiet")[0] == 0
    assert (here / "measured" / "corral-digits-at" / "records" / "custom-n20.json").is_file()
    code, out, _ = run("certify", "corral/digits-certified", "--n", 5, "--no-attack", "--quiet")
    assert (code, "measured/corral-digits-certified/certificates/l2-n5.html" in out) == (0, True)
    code, out, _ = run("analyze", NAME, "--only", "norms", "--n", 40, "--quiet")
    assert (code, (here / "measured" / "corral-digits-at" / "analyses" / "page.html").is_file()) == (0, True)
    assert run("report", NAME, "measured/corral-digits-at")[0] == 0
    code, out, _ = run("show", NAME)
    assert (code, "recipe" in out, "standard at Linf 0.1" in out) == (0, True, True)
    code, _, err = run("export", NAME)
    assert (code, err) == (2, f"corral: {NAME}: give --out, the file, such as model.pt2\n")
    code, _, err = run("evaluate", NAME, "--fit-heads", "slf")
    assert (code, "a model that comes with corral; heads are kept" in err) == (2, True)


@pytest.mark.parametrize(
    "line",
    [
        *(
            f"{verb} corral/digits-ta"
            for verb in ("evaluate", "certify", "audit", "analyze", "export", "report", "show")
        ),
        *("train corral/digits-ta", "cluster corral/digits-ta --data digits", "models corral/digits-ta"),
    ],
)
def test_an_unknown_name_is_one_line_with_the_known_ones(run, here, line):
    code, out, err = run(*line.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "corral/digits-ta" in err
    assert "corral/digits-at, corral/digits-certified, " in err
    assert list(here.iterdir()) == []


def test_an_unknown_name_in_python_says_the_same():
    with pytest.raises(CorralError, match=KNOWN):
        corral.load("corral/nothing")


def test_the_list_has_the_numbers_of_the_records(run):
    code, text, _ = run("models")
    assert code == 0
    _, out, _ = run("models", "--json")
    found = {one["name"]: one for one in json.loads(out)}
    assert tuple(found) == zoo.names()
    for name, one in found.items():
        (row,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
        standard = one["records"]["standard"]
        assert f" {100 * standard['attacks']['worst_case']:.1f}  " in row
        assert one["eps"] > 0
    _, card, _ = run("models", NAME)
    assert card.startswith("# digits-at\n")
    assert "## Limits" in card


def test_names_are_completed_once_their_first_part_is_typed():
    def offered(line):
        env = {"_CORRAL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
        return CliRunner().invoke(cli.app, [], prog_name="corral", env=env).stdout.split()

    assert offered("corral evaluate corral/mnist") == ["corral/mnist-at", "corral/mnist-corral"]
    assert offered("corral models corral/digits-c") == [
        f"corral/digits-{name}" for name in ("certified", "clustr", "corral")
    ]
