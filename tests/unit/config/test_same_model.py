"""Which fields of a model may differ when a run resumes, and when it begins with another run's weights."""

from dataclasses import fields, replace
from typing import Any

import pytest

from fanal.shown import in_yaml
from pretrain.config.same_model import FREE_AT_RESUME, FREE_AT_START, model_differences
from pretrain.config.schema import ModelConfig

MODEL = ModelConfig(
    num_layers=4, hidden_size=64, ffn_hidden_size=176, num_attention_heads=8, num_query_groups=4, vocab_size=2000
)
OTHER_POSITIONS: dict[str, dict[str, Any]] = {
    "a window": {"sliding_window": 16},
    "a window in some layers": {"sliding_window": 16, "full_attention_layer_interval": 2, "local_rotary_base": 5000.0},
    "yarn": {
        "rotary_scaling": "yarn", "rotary_scaling_factor": 8.0, "rotary_scaling_original_length": 4096,
        "rotary_scaling_beta_fast": 16.0, "rotary_scaling_beta_slow": 2.0, "rotary_scaling_attention_factor": 1.2,
    },
    "llama3": {
        "rotary_scaling": "llama3", "rotary_scaling_factor": 8.0, "rotary_scaling_original_length": 4096,
        "rotary_scaling_low_freq_factor": 2.0, "rotary_scaling_high_freq_factor": 8.0,
    },
    "layers without positions": {"no_rope_layer_interval": 4},
    "another base": {"rotary_base": 500_000.0},
}  # fmt: skip
"""What another length, or other positions, change: the weights are there, and are trained on under the new values."""
ANOTHER_MODEL: dict[str, Any] = {
    "activation": "geglu",
    "embedding_scale": "sqrt_hidden_size",
    "rotary_percent": 0.5,
    "add_qkv_bias": True,
    "query_pre_attention_scalar": 3.0,
    "attention_logit_softcap": 50.0,
    "final_logit_softcap": 30.0,
    "qk_layernorm": True,
    "qk_layernorm_scope": "full",
    "normalization": "LayerNorm",
    "layernorm_zero_centered_gamma": True,
    "norm_placement": "after",
    "layernorm_epsilon": 1e-6,
    "share_embeddings_and_output_weights": True,
}


@pytest.mark.parametrize("name", OTHER_POSITIONS)
def test_a_run_may_begin_with_weights_of_other_windows_and_positions_and_not_resume_so(name: str) -> None:
    other = replace(MODEL, **OTHER_POSITIONS[name])
    for saved, current in ((MODEL, other), (other, MODEL)):
        assert model_differences(saved, current, free=FREE_AT_START) == []
        named = [said.split()[0] for said in model_differences(saved, current, free=FREE_AT_RESUME)]
        assert sorted(named) == sorted(f"model.{field}" for field in OTHER_POSITIONS[name])


@pytest.mark.parametrize("name", ANOTHER_MODEL)
def test_a_run_neither_begins_nor_resumes_with_weights_of_another_arithmetic(name: str) -> None:
    other = replace(MODEL, **{name: ANOTHER_MODEL[name]})
    for free in (FREE_AT_START, FREE_AT_RESUME):
        assert model_differences(MODEL, other, free=free) == [
            f"model.{name} (checkpoint {in_yaml(_acting(name))}, config {in_yaml(ANOTHER_MODEL[name])})"
        ]


def test_every_field_that_is_no_size_is_judged_here() -> None:
    sizes = {"num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "kv_channels", "vocab_size",
             "make_vocab_size_divisible_by"}  # fmt: skip
    free = {name for case in OTHER_POSITIONS.values() for name in case} | {"init_method_std"} | FREE_AT_RESUME
    assert free == FREE_AT_START
    assert {field.name for field in fields(ModelConfig)} == sizes | free | set(ANOTHER_MODEL)


def test_what_is_stated_as_it_follows_is_no_difference() -> None:
    stated = replace(MODEL, kv_channels=8, query_pre_attention_scalar=8.0)
    assert model_differences(MODEL, stated, free=FREE_AT_RESUME) == []
    assert model_differences(stated, MODEL, free=FREE_AT_RESUME) == []


def _acting(name: str) -> Any:
    """The value that the model of this file acts by, where the field is null."""
    return 8.0 if name == "query_pre_attention_scalar" else getattr(MODEL, name)
