"""Rules of a model's fields: what they must be together, whatever the layout."""

import math
from dataclasses import fields

from fanal.errors import UserError
from pretrain.config.derive import has_local_angles, has_rotary_positions, kv_channels, next_multiple, rotary_channels
from pretrain.config.number_rules import digits, size_problem
from pretrain.config.schema import ModelConfig

LARGEST_SCALING = 1_000_000
"""Factors and turns of a rotary scaling, far above what anyone uses."""
SMALLEST_DIVISOR = 1e-6
"""Far below what anyone uses, and what is divided by it, or by its root, stays a number of single precision."""
SMALLEST_YARN_BASE = 2
"""The ramp of yarn divides by the logarithm of the base, which is 0 for 1."""


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
            f"({model.num_query_groups}); model.num_query_groups={works} works"
        )
    _check_rotary(model)
    _check_rotary_scaling(model)
    _check_window(model)
    _check_turned_layers(model)
    _check_divisors(model)
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
            "turn; 1.0 works"
        )
    channels = rotary_channels(model)
    if channels < 2 or channels % 2:
        works = _share(2 * max(1, channels // 2), kv_channels(model))
        raise UserError(
            f"model.rotary_percent ({model.rotary_percent}) must give an even number of the head's {kv_channels(model)} channels, "
            f"and gives {channels}; {works!r} works"
        )
    if model.rotary_scaling == "yarn" and model.rotary_percent != 1:
        raise UserError(
            f"model.rotary_percent ({model.rotary_percent}) must be 1 where model.rotary_scaling is yarn, whose factor is for "
            "whole heads; 1.0 works"
        )


def _share(channels: int, of: int) -> float:
    """Return the share that gives exactly these channels, though what it multiplies to is rounded down."""
    share = channels / of
    return share if int(of * share) == channels else math.nextafter(share, 1.0)


def _check_window(model: ModelConfig) -> None:
    """Every key of the windows acts, or is at its default."""
    interval, layers = model.full_attention_layer_interval, model.num_layers
    no_interval = "full_attention_layer_interval=null"
    no_interval += " works" if model.local_rotary_base is None else " and model.local_rotary_base=null work"
    if interval is not None and model.sliding_window is None:
        raise UserError(
            f"model.full_attention_layer_interval ({interval}) needs a model.sliding_window, which is null; "
            + ("sliding_window=4096 works" if 1 < interval <= layers else f"model.{no_interval}")
        )
    if interval == 1:
        works = f"model.{no_interval}" if layers == 1 else "2 works"
        raise UserError(
            f"model.full_attention_layer_interval (1) leaves no layer with model.sliding_window ({model.sliding_window}); {works}"
        )
    if interval is not None and interval > layers:
        works = f"model.{no_interval}" if layers == 1 else f"{layers} works"
        raise UserError(
            f"model.full_attention_layer_interval ({interval}) must be at most model.num_layers ({layers}), since no layer is "
            f"without a window there; {works}"
        )
    if model.local_rotary_base is not None and interval is None:
        raise UserError(
            f"model.local_rotary_base ({model.local_rotary_base}) needs a model.full_attention_layer_interval, which is null: it "
            "is the base of layers with a window beside layers without one, as in Gemma 3; null works"
        )


def _check_turned_layers(model: ModelConfig) -> None:
    """What says how positions turn a head says it of a layer that has them.

    rotary_base has a value in every model. Without windows, the scalings linear and llama3 may be stated where no layer has rotary
    positions: earlier runs may have been trained so, and could not be resumed without them.
    """
    turned = [layer for layer in range(model.num_layers) if has_rotary_positions(model, layer)]
    local = [layer for layer in turned if has_local_angles(model, layer)]
    is_kept = model.sliding_window is None and model.rotary_scaling in ("linear", "llama3")
    acts = {
        "rotary_percent": bool(turned) or model.rotary_percent == 1,
        "rotary_scaling": len(turned) > len(local) or model.rotary_scaling == "none" or is_kept,
        "local_rotary_base": bool(local) or model.local_rotary_base is None,
    }
    without_effect = next((name for name, does in acts.items() if not does), None)
    if without_effect is not None:
        raise UserError(
            f"model.{without_effect} ({getattr(model, without_effect)}) is of no effect: of the layers that it is for, "
            f"model.no_rope_layer_interval ({model.no_rope_layer_interval}) leaves none with rotary positions; "
            "model.no_rope_layer_interval=null works"
        )


def _check_divisors(model: ModelConfig) -> None:
    for name in ("query_pre_attention_scalar", "attention_logit_softcap", "final_logit_softcap"):
        value = getattr(model, name)
        if value is not None and value < SMALLEST_DIVISOR:
            raise UserError(
                f"model.{name} ({value:g}) must be at least {SMALLEST_DIVISOR:g}, since numbers of the model are divided by it; "
                "null works"
            )


LENGTH_KINDS = ("llama3", "yarn")
"""Scalings that judge by the original length."""


def _check_rotary_scaling(model: ModelConfig) -> None:
    """Every key of the scaling acts, or is at its default."""
    kind, factor, length = model.rotary_scaling, model.rotary_scaling_factor, model.rotary_scaling_original_length
    if kind == "none" and factor != 1:
        raise UserError(
            f"model.rotary_scaling_factor ({factor}) needs a model.rotary_scaling, which is none; "
            + ("rotary_scaling=linear works, " if 1 < factor <= LARGEST_SCALING and not _others_stated(model) else "")
            + f"{_back_to_defaults(model)} works"
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
    if kind == "yarn" and model.rotary_base < SMALLEST_YARN_BASE:
        raise UserError(
            f"model.rotary_base ({model.rotary_base}) must be at least {SMALLEST_YARN_BASE} where model.rotary_scaling is yarn, "
            "which divides by its logarithm; 10000.0 works"
        )
    stated = model.rotary_scaling_attention_factor
    if stated is not None and not 1 / LARGEST_SCALING <= stated <= LARGEST_SCALING:
        raise UserError(
            f"model.rotary_scaling_attention_factor ({stated:g}) must be from {1 / LARGEST_SCALING:g} to {LARGEST_SCALING:,}, "
            "since scores are multiplied by its square; null works"
        )
    for low, high, works in (
        ("low_freq_factor", "high_freq_factor", (1.0, 4.0)),
        ("beta_slow", "beta_fast", (1.0, 32.0)),
    ):
        below, above = (getattr(model, f"rotary_scaling_{name}") for name in (low, high))
        if not below < above <= LARGEST_SCALING:
            raise UserError(
                f"model.rotary_scaling_{high} ({above}) must be above model.rotary_scaling_{low} ({below}) and at most "
                f"{LARGEST_SCALING:,}; model.rotary_scaling_{low}={works[0]} and model.rotary_scaling_{high}={works[1]} work"
            )


def _others_stated(model: ModelConfig) -> list[str]:
    """Return the keys of scalings, beside the factor, that are not at their defaults."""
    defaults = {field.name: field.default for field in fields(ModelConfig)}
    names = [name for name in defaults if name.startswith("rotary_scaling_") and name != "rotary_scaling_factor"]
    return [name for name in names if getattr(model, name) != defaults[name]]


def _back_to_defaults(model: ModelConfig) -> str:
    """Return the overrides that leave no key of a scaling."""
    defaults = {field.name: field.default for field in fields(ModelConfig)}
    names = ["rotary_scaling_factor", *_others_stated(model)]
    return " ".join(f"model.{name}={'null' if defaults[name] is None else defaults[name]}" for name in names)


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
                f"model.rotary_scaling ({kind}) must be {' or '.join(kinds)} where model.{name} ({value}) is stated; "
                f"model.{name}={'null' if defaults[name] is None else defaults[name]} works"
            )
