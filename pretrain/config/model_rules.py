"""Rules of a model's fields: what they must be together, whatever the layout."""

from dataclasses import fields

from fanal.errors import UserError
from pretrain.config.derive import kv_channels, next_multiple, rotary_channels
from pretrain.config.number_rules import digits, size_problem
from pretrain.config.schema import ModelConfig

LARGEST_SCALING = 1_000_000
"""Factor and turns of a rotary scaling, far above what anyone uses."""


def check_model(model: ModelConfig) -> None:
    """Refuse a model whose fields do not go together. Raises: UserError naming the first broken rule."""
    if model.kv_channels is None and model.hidden_size % model.num_attention_heads:
        raise UserError(
            f"model.hidden_size ({model.hidden_size}) must be a multiple of model.num_attention_heads "
            f"({model.num_attention_heads}), or model.kv_channels must state the head size; "
            f"{next_multiple(model.hidden_size, model.num_attention_heads)} works"
        )
    head_size = model.kv_channels or model.hidden_size // model.num_attention_heads
    if head_size % 2:
        raise UserError(
            f"the head size ({head_size}: model.kv_channels, or model.hidden_size / model.num_attention_heads) must be even "
            f"for rotary positions; model.kv_channels={head_size + 1} works"
        )
    if model.num_attention_heads % model.num_query_groups:
        works = max(g for g in range(1, model.num_query_groups + 1) if model.num_attention_heads % g == 0)
        raise UserError(
            f"model.num_attention_heads ({model.num_attention_heads}) must be a multiple of model.num_query_groups "
            f"({model.num_query_groups}); num_query_groups={works} works"
        )
    _check_rotary(model)
    _check_rotary_scaling(model)
    _check_window(model)
    if model.qk_layernorm_scope != "head" and not model.qk_layernorm:
        raise UserError(
            f"model.qk_layernorm_scope ({model.qk_layernorm_scope}) needs model.qk_layernorm, which is false; qk_layernorm=true "
            "works"
        )


def model_problem(model: ModelConfig) -> str | None:
    """Return what is wrong with a model that was read from a file of another kind than a run's config; None if nothing is."""
    problem = size_problem(model)
    if problem is not None:
        return problem
    try:
        check_model(model)
    except UserError as error:
        return str(error)
    return None


def _check_rotary(model: ModelConfig) -> None:
    """The channels that turn are pairs, and in a head."""
    if not 0 < model.rotary_percent <= 1:
        raise UserError(
            f"model.rotary_percent ({model.rotary_percent}) must be above 0 and at most 1: the share of a head's channels that "
            "turn; 0.5 works"
        )
    channels = rotary_channels(model)
    if channels < 2 or channels % 2:
        pairs = max(1, channels // 2)
        raise UserError(
            f"model.rotary_percent ({model.rotary_percent}) must give an even number of the head's {kv_channels(model)} channels, "
            f"and gives {channels}; {2 * pairs / kv_channels(model)!r} works"
        )
    if model.rotary_scaling == "yarn" and model.rotary_percent != 1:
        raise UserError(
            f"model.rotary_percent ({model.rotary_percent}) must be 1 where model.rotary_scaling is yarn, whose factor is for "
            "whole heads; rotary_scaling=llama3 works"
        )


def _check_window(model: ModelConfig) -> None:
    """Every key of the windows acts, or is at its default."""
    interval = model.full_attention_layer_interval
    if interval is not None and model.sliding_window is None:
        raise UserError(
            f"model.full_attention_layer_interval ({interval}) needs a model.sliding_window, which is null; "
            "sliding_window=4096 works"
        )
    if interval == 1:
        raise UserError(
            "model.full_attention_layer_interval (1) leaves no layer with model.sliding_window; 2 works, or sliding_window=null"
        )
    if model.local_rotary_base is not None and interval is None:
        raise UserError(
            f"model.local_rotary_base ({model.local_rotary_base}) needs a model.full_attention_layer_interval, which is null: it "
            "is the base of layers with a window beside layers without one; with sliding_window=4096 and "
            "full_attention_layer_interval=6 it works, as in Gemma 3"
        )


LENGTH_KINDS = ("llama3", "yarn")
"""Scalings that judge by the original length."""


def _check_rotary_scaling(model: ModelConfig) -> None:
    """Every key of the scaling acts, or is at its default."""
    kind, factor, length = model.rotary_scaling, model.rotary_scaling_factor, model.rotary_scaling_original_length
    if kind == "none" and factor != 1:
        raise UserError(
            f"model.rotary_scaling_factor ({factor}) needs a model.rotary_scaling, which is none; rotary_scaling=linear works"
        )
    if not 1 <= factor <= LARGEST_SCALING:
        raise UserError(
            f"model.rotary_scaling_factor ({factor}) must be from 1 to {LARGEST_SCALING:,}, since frequencies are divided by it; "
            f"{1.0 if kind == 'none' else 8.0} works"
        )
    if length is not None and not 0 < length < 2**31:
        raise UserError(
            f"model.rotary_scaling_original_length ({digits(length)}) must be from 1 to {2**31 - 1:,}; "
            f"{8192 if kind in LENGTH_KINDS else 'null'} works"
        )
    _check_keys_of_other_scalings(model)
    if kind in LENGTH_KINDS and length is None:
        raise UserError(
            f"model.rotary_scaling_original_length (null) must be stated where model.rotary_scaling is {kind}; 8192 works, as in "
            "Llama 3.1 and OLMo 3"
        )
    for low, high, works in (
        ("low_freq_factor", "high_freq_factor", "low_freq_factor=1.0 and high_freq_factor=4.0"),
        ("beta_slow", "beta_fast", "beta_slow=1.0 and beta_fast=32.0"),
    ):
        below, above = (getattr(model, f"rotary_scaling_{name}") for name in (low, high))
        if not below < above <= LARGEST_SCALING:
            raise UserError(
                f"model.rotary_scaling_{high} ({above}) must be above model.rotary_scaling_{low} ({below}) and at most "
                f"{LARGEST_SCALING:,}; {works} work"
            )


def _check_keys_of_other_scalings(model: ModelConfig) -> None:
    """Keys of a scaling that is not chosen are at their defaults."""
    kind = model.rotary_scaling
    keys = {
        "original_length": LENGTH_KINDS, "low_freq_factor": ("llama3",), "high_freq_factor": ("llama3",),
        "beta_fast": ("yarn",), "beta_slow": ("yarn",), "attention_factor": ("yarn",),
    }  # fmt: skip
    defaults = {field.name: field.default for field in fields(ModelConfig)}
    for key, kinds in keys.items():
        name = f"rotary_scaling_{key}"
        value = getattr(model, name)
        if kind not in kinds and value != defaults[name]:
            raise UserError(
                f"model.rotary_scaling ({kind}) must be {' or '.join(kinds)} where model.{name} ({value}) is stated; without it "
                f"{kind} works"
            )
