"""The rotary frequencies of a model's layers, scaled as its configuration states."""

from torch import Tensor

from fanal.kernels.reference import llama3_frequencies, rotary_frequencies, yarn_attention_factor, yarn_frequencies
from pretrain.config.derive import has_local_angles, has_rotary_positions, rotary_channels
from pretrain.config.schema import ModelConfig

GLOBAL, LOCAL = 0, 1
"""Kinds of layers: those that turn by rotary_base, scaled, and those with a window beside them."""


def layer_frequencies(model: ModelConfig) -> tuple[Tensor, ...]:
    """Return the frequencies of each kind of layer, [channels / 2] each, in the order of ``kind_of``."""
    any_local = any(kind_of(model, layer) == LOCAL for layer in range(model.num_layers))
    return tuple(_frequencies(model, is_local=kind == LOCAL) for kind in ((GLOBAL, LOCAL) if any_local else (GLOBAL,)))


def kind_of(model: ModelConfig, layer: int) -> int:
    """Return which frequencies a layer, counted from 0, turns by: GLOBAL or LOCAL."""
    return LOCAL if has_local_angles(model, layer) else GLOBAL


def attention_factor(model: ModelConfig, layer: int) -> float:
    """Return the number that a layer's turned queries, and its turned keys, are multiplied by (YaRN)."""
    if model.rotary_scaling != "yarn" or has_local_angles(model, layer) or not has_rotary_positions(model, layer):
        return 1.0
    stated = model.rotary_scaling_attention_factor
    return yarn_attention_factor(model.rotary_scaling_factor) if stated is None else stated


def _frequencies(model: ModelConfig, *, is_local: bool) -> Tensor:
    base = model.local_rotary_base if is_local and model.local_rotary_base is not None else model.rotary_base
    frequencies = rotary_frequencies(rotary_channels(model), base)
    if is_local or model.rotary_scaling == "none":
        return frequencies
    factor, length = model.rotary_scaling_factor, model.rotary_scaling_original_length
    if model.rotary_scaling == "linear":
        return frequencies / factor
    assert length is not None, "config/model_rules.py wants a length for llama3 and yarn"
    if model.rotary_scaling == "yarn":
        return yarn_frequencies(
            frequencies,
            theta=base,
            factor=factor,
            original_length=length,
            beta_fast=model.rotary_scaling_beta_fast,
            beta_slow=model.rotary_scaling_beta_slow,
        )
    return llama3_frequencies(
        frequencies,
        factor=factor,
        low_freq_factor=model.rotary_scaling_low_freq_factor,
        high_freq_factor=model.rotary_scaling_high_freq_factor,
        original_length=length,
    )
