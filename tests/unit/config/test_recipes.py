"""The recipes of configs/models: their sizes to the digit beside `transformers` and the model cards, their phases, their table."""

import re
from pathlib import Path
from typing import Any

import pytest

from bench import recipes
from bench.recipes import RECIPES, name_of
from fanal.run_progress import NEW_RUN
from pretrain.config.derive import world_size
from pretrain.config.load import load_run, to_yaml
from pretrain.config.rules import check_ranks, check_rate_left
from pretrain.config.same_model import FREE_AT_START, model_differences
from pretrain.config.steps import train_samples
from pretrain.model.families.sizes import num_parameters

MODELS = sorted({recipe.parent.name for recipe in RECIPES})

LLAMA = {"tie_word_embeddings": False}
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    # the class, and the sizes of the published config.json or model card
    "lucie-7b": ("Llama", {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 12288, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 65024}),
    "luciole-1b": ("Nemotron", {"num_hidden_layers": 24, "hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128000, "tie_word_embeddings": True}),
    "luciole-23b": ("Nemotron", {"num_hidden_layers": 40, "hidden_size": 6144, "intermediate_size": 36864, "num_attention_heads": 48, "num_key_value_heads": 8, "vocab_size": 128000}),
    "apertus-8b": ("Apertus", {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 21504, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 131072}),
    "apertus-70b": ("Apertus", {"num_hidden_layers": 80, "hidden_size": 8192, "intermediate_size": 43008, "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 131072}),
    "eurollm-9b": ("Llama", {"num_hidden_layers": 42, "hidden_size": 4096, "intermediate_size": 12288, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128000}),
    "eurollm-22b": ("Llama", {"num_hidden_layers": 54, "hidden_size": 6144, "intermediate_size": 16384, "num_attention_heads": 48, "num_key_value_heads": 8, "vocab_size": 128000}),
    "salamandra-2b": ("Llama", {"num_hidden_layers": 24, "hidden_size": 2048, "intermediate_size": 5440, "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 256000}),
    "salamandra-7b": ("Llama", {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 256000}),
    "alia-40b": ("Llama", {"num_hidden_layers": 48, "hidden_size": 8192, "intermediate_size": 24576, "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 256000}),
    "tildeopen-30b": ("Llama", {"num_hidden_layers": 60, "hidden_size": 6144, "intermediate_size": 21504, "num_attention_heads": 48, "num_key_value_heads": 8, "vocab_size": 131072}),
    "minerva-7b": ("Mistral", {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 51200}),
    "gaperon-8b": ("Llama", {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256}),
    "gaperon-24b": ("Olmo2", {"num_hidden_layers": 40, "hidden_size": 5120, "intermediate_size": 32768, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256}),
    "smollm3-3b": ("SmolLM3", {"num_hidden_layers": 36, "hidden_size": 2048, "intermediate_size": 11008, "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 128256, "tie_word_embeddings": True}),
    "olmo3-7b": ("Olmo3", {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 100278}),
    "olmo3-32b": ("Olmo3", {"num_hidden_layers": 64, "hidden_size": 5120, "intermediate_size": 27648, "num_attention_heads": 40, "num_key_value_heads": 8, "vocab_size": 100278}),
    "marin-32b": ("Qwen3", {"num_hidden_layers": 64, "hidden_size": 5120, "intermediate_size": 27648, "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256}),
    "k2-v2-70b": ("Llama", {"num_hidden_layers": 80, "hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 250112}),
    "oellm-9b": ("Qwen3", {"num_hidden_layers": 36, "hidden_size": 4096, "intermediate_size": 12288, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 262144}),
}  # fmt: skip
STATED = {
    "lucie-7b": (6_706_958_336, "metadata of the weights of Lucie-7B, as listed by others"),
    "salamandra-2b": (2_253_490_176, "model card of BSC-LT/salamandra-2b"),
    "salamandra-7b": (7_768_117_248, "model card of BSC-LT/salamandra-7b"),
    "minerva-7b": (
        7_399_018_496,
        "metadata of the weights of sapienzanlp/Minerva-7B-base-v1.0 (ff16836), as listed by others",
    ),
    "smollm3-3b": (3_075_098_624, "index of the weights of HuggingFaceTB/SmolLM3-3B, as quoted by others"),
    "olmo3-7b": (7_298_011_136, "index of the weights of allenai/Olmo-3-7B-Instruct, as quoted by others"),
    "olmo3-32b": (32_233_522_176, "the weights of OLMo 3 32B, as counted by others"),
    "apertus-8b": (8_053_338_176, "the weights of swiss-ai/Apertus-8B-Instruct-2509, as counted by others"),
    "k2-v2-70b": (72_550_195_200, "config.json of LLM360/K2-V2, as counted by others"),
}
"""Parameters that somebody else states to the digit, and where: read in 2026-11, none of it on huggingface.co itself."""
ABOUT = {
    "luciole-1b": 1.3e9, "luciole-23b": 23.2e9, "eurollm-9b": 9.154e9, "eurollm-22b": 22.639e9, "tildeopen-30b": 3.07e10, "oellm-9b": 9.1e9,
    "apertus-70b": 70e9, "gaperon-8b": 8e9, "gaperon-24b": 24e9, "marin-32b": 32e9, "alia-40b": 40e9,
}  # fmt: skip
"""Parameters that a card gives in words. To the digit they are counted from the published shape by transformers alone."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_has_the_parameters_of_transformers_own_model(name: str) -> None:
    """Layers are alike: those of one and of two give the number of all."""
    import torch
    import transformers

    family, sizes = PUBLISHED[name]

    def counted(layers: int) -> int:
        config = transformers.AutoConfig.for_model(family.lower(), **{**LLAMA, **sizes, "num_hidden_layers": layers})
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config)
        assert type(model).__name__ == f"{family}ForCausalLM"
        return sum(parameter.numel() for parameter in model.parameters())

    one, two = counted(1), counted(2)
    theirs = one + (sizes["num_hidden_layers"] - 1) * (two - one)
    for recipe in (one for one in RECIPES if one.parent.name == name):
        assert num_parameters(load_run(recipe).model) == theirs, name_of(recipe)


@pytest.mark.parametrize("name", STATED)
def test_a_recipe_has_the_parameters_that_others_state_to_the_digit(name: str) -> None:
    count, where = STATED[name]
    found = {num_parameters(load_run(recipe).model) for recipe in RECIPES if recipe.parent.name == name}
    assert found == {count}, where


@pytest.mark.parametrize("name", ABOUT)
def test_a_recipe_has_about_the_parameters_of_the_model_card(name: str) -> None:
    for recipe in (one for one in RECIPES if one.parent.name == name):
        assert num_parameters(load_run(recipe).model) == pytest.approx(ABOUT[name], rel=0.02)


def test_every_model_of_the_recipes_is_counted_here() -> None:
    assert sorted(PUBLISHED) == MODELS
    assert {*STATED, *ABOUT} == {*PUBLISHED} and not {*STATED} & {*ABOUT}


@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_a_recipe_can_start_on_the_ranks_that_it_states_and_is_a_config_again(recipe: Path, tmp_path: Path) -> None:
    run = load_run(recipe)
    check_ranks(run, world_size(run.parallel))
    check_rate_left(run.optim, run.train, NEW_RUN)
    path = tmp_path / "resolved.yaml"
    path.write_text(to_yaml(run))
    assert load_run(path) == run
    assert run.run_dir == f"runs/{recipe.parent.name}/{recipe.stem}"


@pytest.mark.parametrize("recipe", [one for one in RECIPES if one.parent.name != "lucie-7b"], ids=name_of)
def test_what_a_recipe_says_of_its_size_is_so(recipe: Path) -> None:
    run, text = load_run(recipe), recipe.read_text()
    head = text.partition("run_dir")[0].replace("\n# ", " ")
    assert f" {num_parameters(run.model):,} parameters." in head
    assert "Facts: " in head and re.search(r"\b20(24|25|26)\b", head), "its sources have dates"
    samples = train_samples(run.optim, run.train)
    assert f"{samples:,} samples, {samples * run.data.seq_length:,} tokens" in text
    assert f"  # {world_size(run.parallel):,} " in text


@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_a_phase_begins_with_a_recipe_of_the_same_weights(recipe: Path) -> None:
    run = load_run(recipe)
    if run.checkpoint.init_from is None:
        assert recipe.stem in ("pretrain", "pretrain-fast")
        return
    before = load_run(recipe.with_name(f"{Path(run.checkpoint.init_from).name}.yaml"))
    assert before.run_dir == run.checkpoint.init_from
    assert model_differences(before.model, run.model, free=FREE_AT_START) == []
    assert before.data.tokenizer == run.data.tokenizer


def test_the_table_of_the_docs_is_what_the_recipes_say() -> None:
    text = recipes.PAGE.read_text()
    assert recipes.page_with(text, recipes.table()) == text, "python -m bench.recipes --rehearse"


def test_a_table_that_is_not_of_the_recipes_is_noticed() -> None:
    text = recipes.PAGE.read_text()
    stale = text.replace("6,706,958,336", "6,706,958,337")
    assert stale != text and recipes.page_with(stale, recipes.table()) == text


@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_a_recipe_that_was_rehearsed_is_as_it_was_then_and_fits_80_gb(recipe: Path) -> None:
    """The table says of the others that they were not counted."""
    run, known = load_run(recipe), recipes.counted().get(name_of(recipe))
    if known is None:
        assert recipes.row(recipe, recipes.counted()).endswith("| not counted |  |")
        return
    assert known["of"] == recipes.fingerprint(run), "python -m bench.recipes --rehearse"
    assert max(known["peaks_gib"]) <= recipes.LARGEST, known


def test_a_change_of_layout_or_of_what_the_optimizer_keeps_makes_a_count_stale_and_a_change_of_the_schedule_does_not() -> (
    None
):
    recipe = next(one for one in RECIPES if name_of(one) == "luciole-1b-pretrain")
    before = recipes.fingerprint(load_run(recipe))
    assert (
        recipes.fingerprint(load_run(recipe, ["optim.lr=1", "train.train_steps=700000", "model.rotary_base=3"]))
        == before
    )
    for change in (
        "train.micro_batch_size=1",
        "train.recompute=full",
        "parallel.tensor_model_parallel_size=2",
        "model.num_layers=12",
        "optim.name=lion",
        "optim.ema_decay=0.99",
    ):
        assert recipes.fingerprint(load_run(recipe, [change])) != before, change


@pytest.mark.parametrize("name", ["luciole-1b-pretrain", "salamandra-2b-pretrain"])
def test_what_was_rehearsed_is_rehearsed_again(name: str) -> None:
    recipe = next(one for one in RECIPES if name_of(one) == name)
    assert recipes.peaks(load_run(recipe)) == pytest.approx(recipes.counted()[name]["peaks_gib"], rel=0.03)
