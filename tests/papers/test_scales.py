"""A row is the method that its name says at every scale: a scale changes size, epochs and budget, nothing else."""

import pytest

from corral.errors import CorralError
from corral.papers import definition, load_table, shipped_tables
from corral.papers.definition import SCALED, Setting, load_setting
from corral.papers.plan import RunPlan
from corral.training import chosen_sets, load_recipe

# What belongs to a data set and not to a row: numbers that the papers choose for each set (alpha, weights, D, K, the
# high frequencies' edge), sizes of batches and views, and clocks that count epochs. An adversary's own numbers too,
# beyond the fact that it takes one step or many.
OF_THE_DATA = {
    *("alpha", "consistency_weight", "so_weight", "nearest", "clusters", "clusterings", "frequency", "views"),
    *("clusters_per_batch", "samples_per_cluster", "decay_every", "target", "inner", "contrast_weight"),
    *("probe_epochs", "probe_learning_rate", "projection", "centroids_learning_rate", "labeller"),
}
# What names a run, and differs with where it lies.
PLACES = {"training.start", "method.labeller", "training.seed"}


def flat(table, prefix=""):
    """Dotted keys and values."""
    found = {}
    for key, value in table.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def identity(recipe):
    """What makes a row the method that its name says."""
    method = {key: value for key, value in recipe.method.model_dump().items() if key not in OF_THE_DATA}
    if "rule" in method:  # the D nearest clusters of CIFAR-100 are the soft rule over fewer
        method["rule"] = method["rule"] if method["rule"] in ("nearest", "fuzzy") else "soft"
    inner = getattr(recipe.method, "inner", None)
    return {
        **method,
        "one step": inner is not None and inner.steps == 1,
        "warm start": recipe.training.warm_start.epochs > 0,
        "begins from a run": recipe.training.start is not None,
    }


def chains(table, scale, tmp_path):
    """(data set, row, recipes) of every row and part of a scale."""
    for part in table.scales[scale]:
        for row in table.rows:
            if row.has(part.data):
                plan = RunPlan(tmp_path)
                planned = [plan.planned(part, row, 0)] if row.pretrain else plan.chain(part, row, 0)
                yield part, row, [recipe for recipe, _ in planned]


@pytest.mark.parametrize("name", shipped_tables())
def test_a_row_is_its_method_at_every_scale_and_on_every_data_set(name, tmp_path):
    table = load_table(name)
    full = {}
    for part, row, recipes in chains(table, "full", tmp_path):
        full.setdefault(row.name, [identity(recipe) for recipe in recipes])
        assert full[row.name] == [identity(recipe) for recipe in recipes], (part.data, row.name)
    for scale in table.scales:
        for part, row, recipes in chains(table, scale, tmp_path):
            if row.name in full:
                assert [identity(recipe) for recipe in recipes] == full[row.name], (scale, part.data, row.name)


@pytest.mark.parametrize("name", shipped_tables())
def test_a_scale_changes_size_epochs_and_budget_alone(name, tmp_path):
    table = load_table(name)
    for scale in table.scales:
        for part, row, recipes in chains(table, scale, tmp_path):
            for stage, recipe in zip((*row.stages, row), recipes, strict=True):
                # Without the scale's held-out images and epochs a criterion of convergence cannot be read.
                read = {}
                if recipe.training.converged is not None:
                    read = {"data.validation": recipe.data.validation, "training.epochs": recipe.training.epochs}
                if part.data not in chosen_sets(stage.recipe):  # the scale gives what a recipe needs for another set
                    read |= {"model.backbone": recipe.model.backbone, "threat.eps": recipe.threat.eps}
                before = load_recipe(stage.recipe, data=part.data, overrides=stage.set | read)
                one, other = flat(before.model_dump()), flat(recipe.model_dump())
                changed = {key for key in one | other if one.get(key) != other.get(key)} - PLACES
                if one["model.backbone"] != other["model.backbone"]:  # another network has options of its own
                    changed = {key for key in changed if not key.startswith("model.")}
                warm = {key for key in changed if key.startswith("training.warm_start.")}
                assert changed - warm <= SCALED, (scale, part.data, row.name, changed - warm - SCALED)
                assert not warm or before.training.warm_start.epochs > 0


@pytest.mark.parametrize("name", shipped_tables())
def test_rows_of_one_table_have_one_rule_of_selection(name, tmp_path):
    table = load_table(name)
    for scale in table.scales:
        found = {}
        for part, _, recipes in chains(table, scale, tmp_path):
            found.setdefault(part.data, set()).add(recipes[-1].training.select)
        assert all(len(rules) == 1 for rules in found.values()), (scale, found)


@pytest.mark.parametrize(
    "key",
    [
        *("training.warm_start.epochs", "training.start", "method.rule", "method.centroids", "method.numerics"),
        *("method.consistency", "method.consistency_weight", "method.alpha", "method.strategy", "method.assignment"),
        *("method.adversary", "method.inner.step_ratio", "method.inner.mode", "method.bibo_weight", "method.clusters"),
        *("threat.norm", "method.name", "training.seed", "data.name"),
    ],
)
def test_a_setting_that_touches_what_makes_a_row_is_refused_when_it_is_read(key, tmp_path, monkeypatch):
    folder = tmp_path / "corral"
    folder.mkdir()
    monkeypatch.setattr(definition, "files", lambda _: folder)
    for text in (f'set = {{ "{key}" = 1 }}', f'methods.clustr = {{ "{key}" = 1 }}', f'unset = ["{key}"]'):
        (folder / "settings.toml").write_text(f'[tried]\nwhy = "a slip"\n{text}\n')
        with pytest.raises(CorralError, match=rf"settings.toml: tried: .*{key} makes a row what its name says"):
            load_setting("tried")


# The numbers of clusters that NCP-ACL's seeds found (App. A.2.2), and Figure 2's of STL-10.
FOUND = {
    "cifar10": {70, 60, 90, 75},
    "cifar100": {150, 125, 130, 85, 110},
    "stl10": {210, 145, 155, 200, 175, 215},
}


@pytest.mark.parametrize("data", FOUND)
def test_the_silhouette_can_return_the_papers_answers_and_figure_3_covers_them(data):
    candidates = load_recipe("ncp-acl", data=data).method.clusters
    assert set(candidates) >= FOUND[data]
    rows = [row for row in load_table("ncp-figure3").rows if row.has(data) and row.name.startswith("K = ")]
    shown = [stage.set["method.clusters"][0] for row in rows for stage in row.stages if "method.clusters" in stage.set]
    assert set(shown) >= FOUND[data]


def test_many_steps_cannot_become_one():
    with pytest.raises(ValueError, match="below 2 would make another adversary"):
        Setting(why="", set={"method.inner.steps": 1})


def test_a_warm_start_is_scaled_where_there_is_one_and_given_to_no_other():
    """Magnet from random weights, at a scale whose ClusTR has a warm start, had one too and was ClusTR."""
    setting = load_setting("cifar10-small")
    assert setting.warm_start is not None
    for name in ("magnet", "at", "nominal", "trades", "free-at", "corral", "mat", "mmc"):
        shipped = load_recipe(name, data="cifar10")
        assert shipped.training.warm_start.epochs == 0, name
        scaled = load_recipe(name, data="cifar10", overrides=setting.overrides(shipped, {}))
        assert scaled.training.warm_start.epochs == 0, name
    shipped = load_recipe("clustr", data="cifar10")
    assert (
        load_recipe("clustr", data="cifar10", overrides=setting.overrides(shipped, {})).training.warm_start.epochs == 4
    )
