"""config.json as well-known models have it: the model that is read, and its number of parameters in transformers' class."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.config.schema import ModelConfig
from pretrain.convert.importing.import_folder import import_hf
from pretrain.convert.theirs.read_config import read_hf_config
from pretrain.model.families import FAMILIES, family_of
from pretrain.model.families.hf_fields import UnsupportedModelError
from pretrain.model.families.sizes import num_parameters
from tests.unit.convert.test_import_models import LOGITS_TOLERANCE, decoder_of


@dataclasses.dataclass(frozen=True)
class Published:
    """The part of a repository's config.json that states arithmetic, and what we make of it."""

    architecture: str
    content: dict[str, Any]
    model: dict[str, Any]
    """Fields of ModelConfig, beside those that ``PLAIN`` reads under another name."""
    num_parameters: int | None = None
    """As it is known; None where it is not to us."""


PLAIN = {
    "hidden_size": "hidden_size", "ffn_hidden_size": "intermediate_size", "num_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads", "num_query_groups": "num_key_value_heads", "vocab_size": "vocab_size",
}  # fmt: skip
"""Sizes, which have one name in every class: ours, and theirs."""


def sizes(
    hidden: int, intermediate: int, layers: int, heads: int, groups: int, vocab: int, positions: int
) -> dict[str, int]:
    return {
        "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": groups, "vocab_size": vocab, "max_position_embeddings": positions,
    }  # fmt: skip


def layer_types(layers: int, interval: int) -> list[str]:
    return ["sliding_attention" if (layer + 1) % interval else "full_attention" for layer in range(layers)]


LLAMA3 = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
READ_LLAMA3 = {
    "rotary_scaling": "llama3", "rotary_scaling_factor": 8.0, "rotary_scaling_original_length": 8192,
    "rotary_scaling_low_freq_factor": 1.0, "rotary_scaling_high_freq_factor": 4.0,
}  # fmt: skip
YARN = {
    "attention_factor": 1.2079441541679836, "beta_fast": 32.0, "beta_slow": 1.0, "factor": 8.0,
    "original_max_position_embeddings": 8192, "rope_type": "yarn",
}  # fmt: skip
READ_YARN = {
    "rotary_scaling": "yarn", "rotary_scaling_factor": 8.0, "rotary_scaling_original_length": 8192,
    "rotary_scaling_beta_fast": 32.0, "rotary_scaling_beta_slow": 1.0,
}  # fmt: skip
UNTIED = {"tie_word_embeddings": False}
NO_BIASES = {"attention_bias": False, "mlp_bias": False}
GEMMA2 = {
    "attention_bias": False, "attn_logit_softcapping": 50.0, "cache_implementation": "hybrid", "final_logit_softcapping": 30.0,
    "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "sliding_window": 4096,
}  # fmt: skip
READ_GEMMA = {
    "activation": "geglu", "norm_placement": "both", "embedding_scale": "sqrt_hidden_size", "layernorm_zero_centered_gamma": True,
    "share_embeddings_and_output_weights": True, "layernorm_epsilon": 1e-6,
}  # fmt: skip
READ_GEMMA2 = READ_GEMMA | {
    "attention_logit_softcap": 50.0, "final_logit_softcap": 30.0, "sliding_window": 4096, "full_attention_layer_interval": 2,
}  # fmt: skip
READ_OLMO = {
    "norm_placement": "after",
    "qk_layernorm": True,
    "qk_layernorm_scope": "full",
    "layernorm_epsilon": 1e-6,
    "rotary_base": 5e5,
}
NEMOTRON = {
    **NO_BIASES, **UNTIED, "hidden_act": "relu2", "norm_eps": 1e-5, "partial_rotary_factor": 0.5, "rope_theta": 10000.0, "head_dim": 128,
}  # fmt: skip
READ_NEMOTRON = {
    "activation": "squared_relu", "normalization": "LayerNorm", "layernorm_zero_centered_gamma": True, "rotary_percent": 0.5,
    "layernorm_epsilon": 1e-5,
}  # fmt: skip
PUBLISHED: dict[str, Published] = {
    "Llama-3.1-8B": Published(
        "LlamaForCausalLM",
        {**sizes(4096, 14336, 32, 32, 8, 128256, 131072), **NO_BIASES, **UNTIED, "hidden_act": "silu", "rms_norm_eps": 1e-5,
         "rope_scaling": LLAMA3, "rope_theta": 500000.0, "pretraining_tp": 1},
        {"rotary_base": 5e5, "layernorm_epsilon": 1e-5, **READ_LLAMA3}, 8_030_261_248,
    ),
    "Llama-3.3-70B-Instruct": Published(
        "LlamaForCausalLM",
        {**sizes(8192, 28672, 80, 64, 8, 128256, 131072), **NO_BIASES, **UNTIED, "head_dim": 128, "hidden_act": "silu",
         "rms_norm_eps": 1e-5, "rope_scaling": LLAMA3, "rope_theta": 500000.0, "pretraining_tp": 1},
        {"rotary_base": 5e5, "layernorm_epsilon": 1e-5, **READ_LLAMA3}, 70_553_706_496,
    ),
    "Mistral-7B-v0.1": Published(
        "MistralForCausalLM",
        {**sizes(4096, 14336, 32, 32, 8, 32000, 32768), **UNTIED, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
         "sliding_window": 4096},
        {"rotary_base": 1e4, "layernorm_epsilon": 1e-5, "sliding_window": 4096}, 7_241_732_096,
    ),
    "Mistral-7B-v0.3": Published(
        "MistralForCausalLM",
        {**sizes(4096, 14336, 32, 32, 8, 32768, 32768), **UNTIED, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 1000000.0,
         "sliding_window": None},
        {"rotary_base": 1e6, "layernorm_epsilon": 1e-5}, 7_248_023_552,
    ),
    "Qwen2.5-7B": Published(
        "Qwen2ForCausalLM",
        {**sizes(3584, 18944, 28, 28, 4, 152064, 131072), **UNTIED, "hidden_act": "silu", "max_window_layers": 28, "rms_norm_eps": 1e-6,
         "rope_theta": 1000000.0, "sliding_window": 131072, "use_mrope": False, "use_sliding_window": False},
        {"rotary_base": 1e6, "layernorm_epsilon": 1e-6, "add_qkv_bias": True}, 7_615_616_512,
    ),
    "Qwen3-8B": Published(
        "Qwen3ForCausalLM",
        {**sizes(4096, 12288, 36, 32, 8, 151936, 40960), **UNTIED, "attention_bias": False, "head_dim": 128, "hidden_act": "silu",
         "max_window_layers": 36, "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None,
         "use_sliding_window": False},
        {"rotary_base": 1e6, "layernorm_epsilon": 1e-6, "qk_layernorm": True}, 8_190_735_360,
    ),
    "SmolLM3-3B": Published(
        "SmolLM3ForCausalLM",
        {**sizes(2048, 11008, 36, 16, 4, 128256, 65536), **NO_BIASES, "hidden_act": "silu", "layer_types": ["full_attention"] * 36,
         "max_window_layers": 28, "no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0] * 9, "pretraining_tp": 2,
         "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 5000000.0, "sliding_window": None, "use_sliding_window": False},
        {"rotary_base": 5e6, "layernorm_epsilon": 1e-6, "no_rope_layer_interval": 4, "share_embeddings_and_output_weights": True},
        3_075_098_624,
    ),
    "OLMo-2-1124-7B": Published(
        "Olmo2ForCausalLM",
        {**sizes(4096, 11008, 32, 32, 32, 100352, 4096), **UNTIED, "attention_bias": False, "hidden_act": "silu", "rms_norm_eps": 1e-6,
         "rope_scaling": None, "rope_theta": 500000},
        READ_OLMO,
    ),
    "Olmo-3-1025-7B": Published(
        "Olmo3ForCausalLM",
        {**sizes(4096, 11008, 32, 32, 32, 100278, 65536), **UNTIED, "attention_bias": False, "hidden_act": "silu", "rms_norm_eps": 1e-6,
         "layer_types": layer_types(32, 4), "rope_scaling": YARN, "rope_theta": 500000, "sliding_window": 4096},
        {**READ_OLMO, **READ_YARN, "sliding_window": 4096, "full_attention_layer_interval": 4},
    ),
    "Apertus-8B-2509": Published(
        "ApertusForCausalLM",
        {**sizes(4096, 21504, 32, 32, 8, 131072, 65536), **NO_BIASES, **UNTIED, "hidden_act": "xielu", "post_norm": False, "qk_norm": True,
         "rms_norm_eps": 1e-5, "rope_scaling": LLAMA3, "rope_theta": 12000000},
        {"activation": "xielu", "qk_layernorm": True, "rotary_base": 12e6, "layernorm_epsilon": 1e-5, **READ_LLAMA3},
    ),
    "Minitron-8B-Base": Published(
        "NemotronForCausalLM", {**sizes(4096, 16384, 32, 48, 8, 256000, 4096), **NEMOTRON}, {**READ_NEMOTRON, "kv_channels": 128},
    ),
    "Minitron-4B-Base": Published(
        "NemotronForCausalLM", {**sizes(3072, 9216, 32, 24, 8, 256000, 4096), **NEMOTRON}, READ_NEMOTRON,
    ),
    "gemma-2-2b": Published(
        "Gemma2ForCausalLM", {**sizes(2304, 9216, 26, 8, 4, 256000, 8192), **GEMMA2, "head_dim": 256, "query_pre_attn_scalar": 256},
        {**READ_GEMMA2, "kv_channels": 256}, 2_614_341_888,
    ),
    "gemma-2-27b": Published(
        "Gemma2ForCausalLM", {**sizes(4608, 36864, 46, 32, 16, 256000, 8192), **GEMMA2, "head_dim": 128, "query_pre_attn_scalar": 144},
        {**READ_GEMMA2, "kv_channels": 128, "query_pre_attention_scalar": 144.0}, 27_227_128_320,
    ),
    "gemma-3-1b-pt": Published(
        "Gemma3ForCausalLM",
        {**sizes(1152, 6912, 26, 4, 1, 262144, 32768), "attention_bias": False, "attn_logit_softcapping": None,
         "cache_implementation": "hybrid", "final_logit_softcapping": None, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
         "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6, "rope_local_base_freq": 10000, "rope_scaling": None, "rope_theta": 1000000,
         "sliding_window": 512, "sliding_window_pattern": 6},
        {**READ_GEMMA, "kv_channels": 256, "qk_layernorm": True, "rotary_base": 1e6, "local_rotary_base": 1e4, "sliding_window": 512,
         "full_attention_layer_interval": 6},
        999_885_952,
    ),
}  # fmt: skip


def write(folder: Path, name: str, **changes: Any) -> Path:
    """Write a published config.json, with changes; a key that becomes ... goes."""
    published = PUBLISHED[name]
    family = next(family for family in FAMILIES if family.architecture == published.architecture)
    content = {
        "architectures": [published.architecture],
        "model_type": family.model_type,
        **published.content,
        **changes,
    }
    (folder / "config.json").write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))
    return folder


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_is_read_as_this_model(name: str, tmp_path: Path) -> None:
    published = PUBLISHED[name]
    plain = {ours: published.content[theirs] for ours, theirs in PLAIN.items()}
    expected = ModelConfig(**plain, **{"init_method_std": 0.02, **published.model})
    found = read_hf_config(write(tmp_path, name, initializer_range=0.02)).model
    assert found == expected
    if name != "Mistral-7B-v0.3":  # without a window it is a Llama
        assert family_of(found).architecture == published.architecture


@pytest.mark.parametrize("name", PUBLISHED)
def test_its_parameters_are_as_many_as_those_of_transformers_class(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.from_pretrained(write(tmp_path, name))
    with torch.device("meta"):
        theirs = transformers.AutoModelForCausalLM.from_config(config)
    found = num_parameters(read_hf_config(tmp_path).model)
    assert found == sum(parameter.numel() for parameter in theirs.parameters())
    assert PUBLISHED[name].num_parameters in (None, found)


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_written_of_it_is_the_same_to_transformers(name: str, tmp_path: Path) -> None:
    """Of the keys that state arithmetic; a window that does not act may have any value."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoConfig.from_pretrained(write(tmp_path, name)).to_dict()
    model = read_hf_config(tmp_path).model
    written = next(f for f in FAMILIES if f.architecture == PUBLISHED[name].architecture).write_config(model)
    config = {
        key: theirs[key] for key in ("vocab_size", "max_position_embeddings", "model_type", "architectures")
    } | written
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_hf_config(tmp_path).model == model
    back = transformers.AutoConfig.from_pretrained(tmp_path).to_dict()
    for content in (theirs, back):
        content["use_bidirectional_attention"] = bool(content.get("use_bidirectional_attention"))
    alike = {key for key in theirs if key in back} - {
        "dtype",
        "initializer_range",
        "pad_token_id",
        "bos_token_id",
        "eos_token_id",
    }
    if not theirs.get("use_sliding_window", True):
        alike -= {"sliding_window", "max_window_layers"}
    assert {key: back[key] for key in alike} == {key: theirs[key] for key in alike}


def with_layer(number: int, kind: str, layers: int, interval: int) -> list[str]:
    """Types of layers, one of them another one."""
    types = layer_types(layers, interval)
    return [*types[:number], kind, *types[number + 1 :]]


DYNAMIC, LONGROPE = (
    {"rope_type": "dynamic", "factor": 2.0},
    {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]},
)
WORK = "scales the rotary positions in a way that is not supported; default, linear, llama3, yarn work"
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "attention in both directions": ("gemma-3-1b-pt", {"use_bidirectional_attention": True}, r"use_bidirectional_attention \(True\) of .* is not supported; false works"),
    "a cap that no run can have": ("gemma-2-2b", {"final_logit_softcapping": 1e-9}, r"describes a model that no run can have: model.final_logit_softcap"),
    "factors the wrong way round": ("Llama-3.1-8B", {"rope_scaling": LLAMA3 | {"low_freq_factor": 4.0, "high_freq_factor": 1.0}}, r"no run can have: model.rotary_scaling_high_freq_factor \(1.0\)"),
    "a theta below one": ("gemma-2-2b", {"rope_theta": 0.5}, r"rope_theta \(0.5\) .* must be at least 1"),
    "one theta, read in two ways": ("Olmo-3-1025-7B", {"rope_theta": 10000.0}, r"rope_theta \(10000.0\) .* 500000.0 works"),
    "two forms of positions at once": ("Olmo-3-1025-7B", {"rope_parameters": {"full_attention": {"rope_theta": 5e5}, "factor": 8.0}}, r"holds also factor"),
    "no bias as a number": ("Apertus-8B-2509", {"attention_bias": 0}, r"attention_bias \(0\)"),
    "no channel that turns": ("Llama-3.1-8B", {"partial_rotary_factor": 0}, r"partial_rotary_factor \(0\)"),
    "a number for the layers' kinds": ("gemma-2-2b", {"sliding_window": None, "layer_types": 3}, r"layer_types \(3\) .* must be a list"),
    "layers with a window of no size": ("gemma-2-2b", {"sliding_window": None}, r"sliding_window \(None\) .* 4096 works"),
    "the same in Gemma 2": ("gemma-2-2b", {"use_bidirectional_attention": True}, r"use_bidirectional_attention \(True\)"),
    "biases in Apertus": ("Apertus-8B-2509", {"attention_bias": True}, r"attention_bias \(True\) of .* is not supported; false works"),
    "biases in OLMo 2": ("OLMo-2-1124-7B", {"attention_bias": True}, r"attention_bias \(True\)"),
    "biases in OLMo 3": ("Olmo-3-1025-7B", {"attention_bias": True}, r"attention_bias \(True\)"),
    "biases in Gemma 3": ("gemma-3-1b-pt", {"attention_bias": True}, r"attention_bias \(True\)"),
    "biases in Nemotron's feed-forward": ("Minitron-4B-Base", {"mlp_bias": True}, r"mlp_bias \(True\)"),
    "another activation in Nemotron": ("Minitron-4B-Base", {"hidden_act": "silu"}, r"hidden_act \('silu'\) of .*; 'relu2' works"),
    "another activation in Gemma 2": ("gemma-2-2b", {"hidden_activation": "silu"}, r"hidden_activation \('silu'\) of .*; 'gelu_pytorch_tanh' works"),
    "more channels than there are": ("Minitron-4B-Base", {"partial_rotary_factor": 1.5}, r"partial_rotary_factor \(1.5\)"),
    "a layer out of turn in OLMo 3": ("Olmo-3-1025-7B", {"layer_types": with_layer(1, "full_attention", 32, 4)}, r"layer_types .* is supported only where every N-th layer is 'full_attention'"),
    "a last layer out of turn in Gemma 3": ("gemma-3-1b-pt", {"layer_types": with_layer(25, "full_attention", 26, 6)}, r"layer_types .* is supported only where every N-th"),
    "chunks": ("Olmo-3-1025-7B", {"layer_types": with_layer(1, "chunked_attention", 32, 4)}, r"layer_types .* must be a list of num_hidden_layers \(32\) entries"),
    "too few layers' types": ("gemma-2-2b", {"layer_types": ["full_attention"]}, r"layer_types .* must be a list of num_hidden_layers \(26\) entries"),
    "windows in Qwen2": ("Qwen2.5-7B", {"use_sliding_window": True, "sliding_window": 4096}, r"sliding_window \(4096\) .* below max_position_embeddings \(131072\) in this class; null works"),
    "windows in some layers of Qwen3": ("Qwen3-8B", {"layer_types": with_layer(3, "full_attention", 36, 4)}, r"layer_types \(\['sliding_attention'\]\) .* 'full_attention' works"),
    "no windows in a family with them": ("gemma-2-2b", {"sliding_window": 0}, r"sliding_window \(0\) of .* must be an integer above 0"),
    "dynamic scaling": ("Llama-3.1-8B", {"rope_scaling": DYNAMIC}, rf"rope_scaling .*dynamic.* {WORK}"),
    "longrope": ("Llama-3.1-8B", {"rope_scaling": LONGROPE}, rf"rope_scaling .*longrope.* {WORK}"),
    "dynamic scaling in OLMo 3": ("Olmo-3-1025-7B", {"rope_scaling": DYNAMIC}, rf"rope_scaling .*dynamic.* {WORK}"),
    "dynamic scaling in Gemma 3": ("gemma-3-1b-pt", {"rope_scaling": DYNAMIC}, rf"rope_scaling .*dynamic.* {WORK}"),
    "any scaling in Gemma 2": ("gemma-2-2b", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, r"rope_scaling \(\{.*linear.*\}\) of .* must not scale in this class; rope_type 'default' works"),
    "a cap of zero": ("gemma-2-2b", {"final_logit_softcapping": 0}, r"final_logit_softcapping \(0\) of .* must be a number above 0"),
    "a scalar that is no whole number": ("gemma-2-2b", {"query_pre_attn_scalar": 144.5}, r"query_pre_attn_scalar \(144.5\) of .* must be an integer above 0"),
    "rotary positions in other layers": ("SmolLM3-3B", {"no_rope_layers": [0, 1, 1, 1] * 9}, r"no_rope_layers .* is supported only where every N-th layer is 0"),
    "Gemma 3 with images": (
        "gemma-3-1b-pt",
        {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}, "vision_config": {}},
        r"architectures \(\['Gemma3ForConditionalGeneration'\]\) .* holds a text model \(gemma3_text, text_config\) as a part of itself; that part, saved alone as Gemma3ForCausalLM, works",
    ),
    "a text model that is none of ours": (
        "gemma-3-1b-pt", {"architectures": ["Idefics3ForConditionalGeneration"], "text_config": {"model_type": "mpt"}},
        r"architectures .* must be a supported one: LlamaForCausalLM",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "message"), REFUSED.values(), ids=list(REFUSED))
def test_what_is_not_computed_is_refused_by_name(
    name: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        read_hf_config(write(tmp_path, name, **changes))


def test_a_soft_cap_of_null_is_none_and_one_that_is_not_stated_is_the_class_s(tmp_path: Path) -> None:
    caps = {"attn_logit_softcapping": None, "final_logit_softcapping": None}
    model = read_hf_config(write(tmp_path, "gemma-2-2b", **caps)).model
    assert (model.attention_logit_softcap, model.final_logit_softcap) == (None, None)
    model = read_hf_config(write(tmp_path, "gemma-2-2b", **dict.fromkeys(caps, ...))).model
    assert (model.attention_logit_softcap, model.final_logit_softcap) == (50.0, 30.0)


def test_a_window_that_mistral_does_not_state_is_the_class_s_and_one_beyond_every_text_is_none(tmp_path: Path) -> None:
    name = "Mistral-7B-v0.1"
    assert read_hf_config(write(tmp_path, name, sliding_window=...)).model.sliding_window == 4096
    assert read_hf_config(write(tmp_path, name, sliding_window=32768)).model.sliding_window == 32768, "of an export"
    assert read_hf_config(write(tmp_path, name, sliding_window=32769)).model.sliding_window is None


def test_the_text_part_of_gemma_3_with_images_saved_alone_works(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    options = {
        "vocab_size": 300,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
    }
    text = options | {
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": 10,
        "initializer_range": 0.2,
        "pad_token_id": 0,
    }
    image = {
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
    }
    config = transformers.Gemma3Config(
        text_config=text, vision_config=image | {"patch_size": 14}, mm_tokens_per_image=4, image_token_index=299
    )
    torch.manual_seed(3)
    whole = transformers.Gemma3ForConditionalGeneration(config).eval()
    whole.save_pretrained(tmp_path / "whole")
    with pytest.raises(UnsupportedModelError, match="saved alone as Gemma3ForCausalLM, works"):
        import_hf(tmp_path / "whole", tmp_path / "refused")
    alone = transformers.Gemma3ForCausalLM(whole.config.text_config)
    alone.model, alone.lm_head = whole.model.language_model, whole.lm_head
    alone.save_pretrained(tmp_path / "alone")
    tokens = torch.arange(100)[None]
    with torch.no_grad():
        expected = whole(tokens).logits
    found = decoder_of(import_hf(tmp_path / "alone", tmp_path / "imported").checkpoint).logits(tokens)
    assert (found - expected).abs().max() / expected.abs().max() < LOGITS_TOLERANCE
