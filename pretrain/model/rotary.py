"""The rotary frequencies of a model, scaled as its configuration states."""

from torch import Tensor

from fanal.kernels.reference import llama3_frequencies
from pretrain.config.schema import ModelConfig


def scaled_frequencies(model: ModelConfig, frequencies: Tensor) -> Tensor:
    """Return the frequencies that a model turns by. Args: frequencies: those of its rotary_base, [d/2]. Definition: kernels."""
    if model.rotary_scaling == "none":
        return frequencies
    if model.rotary_scaling == "linear":
        return frequencies / model.rotary_scaling_factor
    assert model.rotary_scaling_original_length is not None, "config/model_rules.py wants a length for llama3"
    return llama3_frequencies(
        frequencies,
        factor=model.rotary_scaling_factor,
        low_freq_factor=model.rotary_scaling_low_freq_factor,
        high_freq_factor=model.rotary_scaling_high_freq_factor,
        original_length=model.rotary_scaling_original_length,
    )
