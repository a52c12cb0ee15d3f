"""Rules of a model's fields: each refusal names a value that works, and it does."""

import dataclasses
from pathlib import Path

import pytest

from pretrain.config.load import load_run
from pretrain.config.schema import ModelConfig
from pretrain.model.families import family_of
from tests.unit.config.test_rules import CONFIG

LLAMA3 = ("model.rotary_scaling=llama3", "model.rotary_scaling_original_length=8192")
REFUSED = {
    "a factor without a scaling": (
        ("model.rotary_scaling_factor=4",), r"rotary_scaling_factor \(4.0\) needs a model.rotary_scaling, which is none",
        ("model.rotary_scaling_factor=4", "model.rotary_scaling=linear"),
    ),
    "a factor below 1": (
        ("model.rotary_scaling=linear", "model.rotary_scaling_factor=0.5"), r"\(0.5\) must be from 1 to 1,000,000.*; 8.0 works",
        ("model.rotary_scaling=linear", "model.rotary_scaling_factor=8.0"),
    ),
    "a length that says nothing": (
        ("model.rotary_scaling_original_length=8192",), r"rotary_scaling \(none\) must be llama3 .* \(8192\)", (),
    ),
    "llama3 without a length": (
        LLAMA3[:1], r"original_length \(null\) must be stated .* 8192 works", LLAMA3,
    ),
    "turns in the wrong order": (
        (*LLAMA3, "model.rotary_scaling_low_freq_factor=4"), r"high_freq_factor \(4.0\) must be above .* \(4.0\)",
        (*LLAMA3, "model.rotary_scaling_low_freq_factor=1.0", "model.rotary_scaling_high_freq_factor=4.0"),
    ),
    "a kind that is not known": (
        ("model.rotary_scaling=yarn",), r"model.rotary_scaling.*yarn", ("model.rotary_scaling=none",),
    ),
}  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG)
    return path


@pytest.mark.parametrize("name", REFUSED)
def test_a_scaling_that_is_none_is_refused_and_what_is_recommended_works(name: str, config: Path) -> None:
    overrides, message, works = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        load_run(config, list(overrides))
    load_run(config, list(works))


def test_fields_of_two_families_are_refused_by_name() -> None:
    model = ModelConfig(
        num_layers=4, hidden_size=8, ffn_hidden_size=8, num_attention_heads=2, num_query_groups=1, vocab_size=8,
        qk_layernorm=True,
    )  # fmt: skip
    assert family_of(model).title == "Qwen3"
    with pytest.raises(
        ValueError,
        match=r"no family of models uses model.no_rope_layer_interval \(2\) and model.qk_layernorm \(True\) .* the default works",
    ):
        family_of(dataclasses.replace(model, no_rope_layer_interval=2))
    assert family_of(dataclasses.replace(model, no_rope_layer_interval=2, qk_layernorm=False)).title == "SmolLM3"
