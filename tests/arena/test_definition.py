"""The shipped arena is one that can be run, and an unfair one is refused."""

from pathlib import Path

import pytest
from experiments.arena import passes
from experiments.arena.definition import FILE, load_arena
from experiments.arena.passes import Cost, cost_of, digest_of, tiny_recipe
from experiments.arena.plan import STAGES, budget_of, final_jobs, job_of, screen_jobs
from tests.arena.conftest import TINY, arena_of

from corral.errors import CorralError, UsageError
from corral.training import load_recipe

ROOT = Path(__file__).resolve().parents[2]
ARENA = load_arena(FILE)


@pytest.mark.parametrize("task", list(ARENA.task))
def test_every_run_of_the_shipped_file_has_a_recipe_within_its_budget(task):
    chosen = dict.fromkeys(ARENA.methods(task), ARENA.searched)
    finalists = ARENA.methods(task)[:2]
    screens, finals = screen_jobs(ARENA, task), final_jobs(ARENA, task, chosen, finalists)
    assert len(screens) == len(chosen) * ARENA.searched
    budgets = {stage: budget_of(ARENA, task, stage) for stage in STAGES}
    for job in screens + finals:
        budget = budgets[job.stage]
        # Not above the budget, and not another epoch below it.
        assert budget - job.cost.epoch < job.passes <= budget + 1e-9
        assert job.recipe.data.validation == (ARENA.task[task].screen.n if job.stage == "screen" else 0)
        assert (job.recipe.training.schedule, job.recipe.training.milestones) == ("cosine", [])
    baseline = [job for job in finals if job.entry == ARENA.baseline]
    assert [job.epochs for job in baseline] == [ARENA.task[task].budget] * ARENA.finalist_seeds
    counts = {entry: sum(job.entry == entry for job in finals) for entry in ARENA.entries(task)}
    assert all(count == (5 if entry.split("+")[0] in finalists else 3) for entry, count in counts.items())
    assert len({job.folder for job in screens + finals}) == len(screens + finals)


def test_cifar10_is_the_task_of_the_issue():
    recipe = ARENA.recipe("cifar10", "at", ARENA.method["at"].candidates[0], screen=False, epochs=20)
    assert (recipe.threat.norm, recipe.threat.eps) == ("Linf", pytest.approx(8 / 255))
    assert (recipe.model.backbone, recipe.model.options()) == ("resnet", {"depth": 10, "width": 16})
    assert (recipe.data.train, recipe.method.inner.steps, recipe.training.precision) == (None, 3, "bfloat16")
    assert ARENA.task["cifar10"].n == 1000


def test_costs_are_the_closed_forms():
    """k steps of PGD and one of training go both ways; TRADES begins with the clean logits and trains on two images."""
    of = {name: cost_of(ARENA.recipe("digits", name, ARENA.method[name].candidates[0], screen=False)) for name in
          ("at", "trades", "free-at")}  # fmt: skip
    assert of["at"] == Cost(5 + 1, 5 + 1)
    assert of["trades"] == Cost(1 + 5 + 2, 5 + 2)
    assert of["free-at"] == Cost(8, 8)


TEACHER = """
import copy
import torch
import corral

class Teacher(corral.training.methods.base.LabelMethod):
    name = "arena-teacher"

    def start(self):
        super().start()
        self.teacher = copy.deepcopy(self.model)

    def loss(self, x, y, indices):
        with torch.no_grad():
            self.teacher(x)
        logits = self.model(x)
        self.model(x)
        return torch.nn.functional.cross_entropy(logits, y), {}
"""


def test_a_perturbation_that_begins_late_is_counted_as_one_that_has_begun():
    recipe = ARENA.recipe("digits", "at+awp", ARENA.method["at"].candidates[0], screen=False, epochs=20)
    late = load_recipe(recipe, overrides={"training.perturbation.warm_up": 5})
    assert cost_of(late) == cost_of(recipe) == Cost(5 + 2, 5 + 2)


def test_a_copy_of_the_network_is_counted_and_what_has_no_gradient_goes_forward_alone(tmp_path):
    (tmp_path / "teacher.py").write_text(TEACHER)
    recipe = load_recipe(f"{tmp_path / 'teacher.py'}:Teacher", data="digits")
    assert cost_of(recipe) == Cost(3, 1)


def test_epochs_are_rounded_down_to_the_budget():
    assert Cost(4, 4).epochs(160) == 20
    assert Cost(6, 5).epochs(160) == 14  # 154; a fifteenth would be 165
    assert Cost(6, 5, once=7).epochs(160) == 13  # 150; with a fourteenth 161
    assert Cost(6, 5, once=6).epochs(160) == 14  # 160 exactly
    assert Cost(0.1, 0.2).epochs(0.3 * 7) == 7  # not 6 by rounding of floats
    with pytest.raises(UsageError, match="less than one epoch"):
        Cost(100, 61).epochs(160)


@pytest.mark.parametrize("method", ["at", "global-centroids"])
def test_committed_passes_are_those_that_are_counted(method):
    recipe = ARENA.recipe("digits", method, ARENA.method[method].candidates[0], screen=False)
    tiny = tiny_recipe(recipe)
    committed = passes.read(passes.FILE)[digest_of(tiny)]
    assert passes.counted(tiny) == committed


def test_the_cost_does_not_know_data_network_or_rate():
    digests = {
        digest_of(tiny_recipe(ARENA.recipe(task, "at", candidate, screen=screen)))
        for task in ("cifar10", "cifar10-l2", "cifar100")
        for candidate in ARENA.method["at"].candidates
        for screen in (True, False)
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[{}, { rate = 2.0 }]", "[{}]", "method 'at' has 1 candidates, and every method is searched over 2"),
        ("[{}, { rate = 2.0 }]", "[{ rate = 2.0 }, {}]", "method 'at': the first candidate must be {}"),
        ('baseline = "at"', 'baseline = "mart"', "baseline 'mart' must be a method of every task"),
        ('methods = ["at"]', 'methods = ["mart"]', "ingredient 'flips' names no method: 'mart'"),
        ("images = 60\ninner", 'images = 60\nentries = ["at", "at+x"]\ninner', "task 'tiny' names no entry: 'at+x'"),
        ("images = 60\ninner", 'images = 60\nentries = ["trades"]\ninner', "leaves the baseline 'at' out"),
        ("[ingredient.flips]", '[ingredient."a+b"]', "'a+b': a name has neither + nor spaces"),
        ("budget = 2\nn", "budget = 0\nn", "task.tiny.budget: Input should be greater than or equal to 1"),
        ("searched = 2", "searched = 2\nspeed = 1", "speed: Extra inputs are not permitted"),
    ],
)
def test_an_unfair_or_mistyped_file_is_refused(tmp_path, old, new, message):
    assert old in TINY
    with pytest.raises(CorralError, match=r"arena\.toml: ") as error:
        arena_of(tmp_path, TINY.replace(old, new, 1))
    assert message in str(error.value)


def test_a_task_may_name_its_entries(tmp_path):
    arena = arena_of(tmp_path, TINY.replace("images = 60\ninner", 'images = 60\nentries = ["at+flips", "at"]\ninner'))
    assert arena.entries("tiny") == ["at", "at+flips"]
    assert arena.methods("tiny") == ["at"]


def test_an_unknown_task_entry_or_candidate_is_named(tiny):
    for given, message in (
        (("mnist", "final", "at", 1), "no task 'mnist'; known: tiny"),
        (("tiny", "final", "trades+flips", 1), "no entry 'trades+flips' of task tiny; known: at, at+flips, trades"),
        (("tiny", "screen", "at", 3), "at has candidates 1 to 2, found 3"),
    ):
        task, stage, entry, number = given
        with pytest.raises(UsageError) as error:
            job_of(tiny, task, stage, entry, number=number, seed=0)
        assert str(error.value) == message


def test_the_page_has_every_task_and_every_table():
    page = (ROOT / "docs" / "arena.md").read_text(encoding="utf-8")
    assert all(f"`{task}`" in page for task in ARENA.task)
    for table in sorted((ROOT / "results" / "tables").glob("arena-*/table.md")):
        assert f"<!-- table: {table.relative_to(ROOT)} # " in page
