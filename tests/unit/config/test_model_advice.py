"""Whatever a model's fields are stated together, each message is followed and the next one comes, until the model is one."""

import random
from pathlib import Path
from typing import Any

import pytest

from pretrain.config.load import load_run
from pretrain.model.flops import flops_per_token
from pretrain.model.rotary import attention_factor, layer_frequencies
from tests.unit.config.test_config_advice import advice, refusal
from tests.unit.config.test_rules import CONFIG

VALUES: dict[str, tuple[Any, ...]] = {
    "num_layers": (1, 2, 3),
    "kv_channels": (2, 44),
    "activation": ("geglu", "squared_relu", "xielu"),
    "embedding_scale": ("sqrt_hidden_size",),
    "rotary_base": (1, 1.5, 500000),
    "local_rotary_base": (0, 0.5, 5000),
    "rotary_percent": (0, 0.1, 0.25, 0.709, 2),
    "rotary_scaling": ("linear", "llama3", "yarn"),
    "rotary_scaling_factor": (0, 0.5, 8, 1e9),
    "rotary_scaling_original_length": (0, 1, 8192),
    "rotary_scaling_low_freq_factor": (0, 5),
    "rotary_scaling_high_freq_factor": (0.5, 1e7),
    "rotary_scaling_beta_fast": (0.5, 16, 1e7),
    "rotary_scaling_beta_slow": (0, 2, 50),
    "rotary_scaling_attention_factor": (0, 1, 1e9),
    "no_rope_layer_interval": (1, 2, 9),
    "sliding_window": (0, 1, 16, 4096),
    "full_attention_layer_interval": (0, 1, 2, 4, 9),
    "add_qkv_bias": ("true",),
    "query_pre_attention_scalar": (0, 1e-30, 3),
    "attention_logit_softcap": (0, 1e-30, 50),
    "final_logit_softcap": (".nan", 30),
    "qk_layernorm": ("true",),
    "qk_layernorm_scope": ("full",),
    "normalization": ("LayerNorm",),
    "layernorm_zero_centered_gamma": ("true",),
    "norm_placement": ("after", "both"),
}
"""Values of a model's keys, some of which never work, and most of which do not beside some other."""
MOST_MESSAGES = 20


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG)
    return path


@pytest.mark.parametrize("seed", range(40))
def test_the_advice_of_one_message_after_the_other_ends_at_a_model(seed: int, config: Path) -> None:
    draw = random.Random(seed)
    names = draw.sample(list(VALUES), k=draw.randint(2, 12))
    stated = {f"model.{name}": f"{draw.choice(VALUES[name])}" for name in names}
    said = list[str]()
    while (message := refusal(config, [f"{key}={value}" for key, value in stated.items()])) is not None:
        assert message not in said and len(said) < MOST_MESSAGES, (stated, said)
        said.append(message)
        stated |= dict(override.split("=") for override in advice(message, _key(message)))
    model = load_run(config, [f"{key}={value}" for key, value in stated.items()]).model
    assert all(bool(frequencies.isfinite().all()) for frequencies in layer_frequencies(model)), stated
    assert all(0 < attention_factor(model, layer) <= 1e6 for layer in range(model.num_layers))
    assert 0 < flops_per_token(model, 64, causal=True) <= flops_per_token(model, 64, causal=False)


def _key(message: str) -> str:
    return next(word for word in message.replace(":", " ").split() if word.startswith("model."))
