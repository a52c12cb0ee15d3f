"""The small twins of recipes train in TP2 x PP2, and their exports are certified: one of each class, and one chain of phases.

``make recipes`` does the same with every recipe, and bench/results/recipes.md has what became of each.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import twins
from bench.recipes import RECIPES, name_of
from pretrain.config.load import load_run
from pretrain.model.families import family_of

EACH_CLASS = {
    "minerva-7b-pretrain": "LlamaForCausalLM", "marin-32b-pretrain": "Qwen3ForCausalLM", "gaperon-24b-pretrain": "Olmo2ForCausalLM",
    "smollm3-3b-pretrain": "SmolLM3ForCausalLM", "apertus-8b-pretrain": "ApertusForCausalLM", "luciole-1b-pretrain": "NemotronForCausalLM",
}  # fmt: skip
CHAIN = ("olmo3-7b-pretrain", "olmo3-7b-midtrain", "olmo3-7b-long-64k")


@pytest.fixture(scope="module")
def trained(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, twins.Twin]:
    """Each twin by the name of its recipe."""
    recipes = [recipe for recipe in RECIPES if name_of(recipe) in (*EACH_CLASS, *CHAIN)]
    folder = tmp_path_factory.mktemp("twins")
    return {twin.recipe: twin for twin in twins.train_and_export(recipes, folder, data_folder)}


def test_every_class_of_the_recipes_has_its_twin_here() -> None:
    classes = {family_of(load_run(recipe).model).architecture for recipe in RECIPES}
    assert classes == {*EACH_CLASS.values(), "Olmo3ForCausalLM"}


@pytest.mark.parametrize("name", [*EACH_CLASS, *CHAIN])
def test_the_export_of_a_small_twin_is_certified(name: str, trained: dict[str, twins.Twin]) -> None:
    twin = trained[name]
    assert len(twin.losses) == twins.STEPS
    assert twin.exported, twin.said
    assert twin.architecture == EACH_CLASS.get(name, "Olmo3ForCausalLM")


@pytest.mark.parametrize("name", [*EACH_CLASS, CHAIN[0]])
def test_a_small_twin_learns(name: str, trained: dict[str, twins.Twin]) -> None:
    before, after = trained[name].validation
    assert after < before


def test_a_phase_goes_on_from_where_the_phase_before_it_ended(trained: dict[str, twins.Twin]) -> None:
    first, second, third = (trained[name].validation for name in CHAIN)
    assert second[0] == pytest.approx(first[1], rel=1e-6)
    assert first[1] < first[0], "so that initial weights would be noticed"
    assert third[0] == pytest.approx(second[1], rel=1e-2), (
        "another scaling of positions, which hardly matters at 64 tokens"
    )


def test_the_committed_results_are_of_every_recipe_and_each_is_certified() -> None:
    rows = re.findall(r"^\| (\S+) \| \w+ForCausalLM \|.*\| (\w+) \|$", twins.RESULTS.read_text(), re.MULTILINE)
    assert dict(rows) == {name_of(recipe): "certified" for recipe in RECIPES}, "make recipes"


def test_the_command_trains_a_twin_whose_checkpoint_states_its_own_sizes(small_run: Path, tmp_path: Path) -> None:
    words = [
        str(small_run),
        "--scale",
        "1/8",
        f"run_dir={tmp_path / 'run'}",
        "train.train_steps=2",
        "train.validation_interval=null",
    ]
    done = subprocess.run([sys.executable, "-m", "fanal", "train", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (config,) = (tmp_path / "run" / "checkpoints").glob("step-*/config.yaml")
    wanted = load_run(small_run, words[3:], "1/8")
    assert wanted.model.hidden_size == 32 and load_run(config) == wanted
