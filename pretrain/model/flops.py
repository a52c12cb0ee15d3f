"""Floating-point operations of a training step. Pure arithmetic."""

from typing import Literal

from pretrain.config.derive import has_sliding_window, kv_channels
from pretrain.config.schema import ModelConfig
from pretrain.model.families.sizes import product_weights

PEAK_TFLOPS = {
    # Dense bf16 without sparsity, from the data sheets of NVIDIA and AMD; matched against the start of the device's name.
    "NVIDIA H100 PCIe": 756.0,
    "NVIDIA H100 NVL": 835.5,
    "NVIDIA H200 NVL": 835.5,
    "NVIDIA H100": 989.4,
    "NVIDIA H200": 989.4,
    "NVIDIA GH200": 989.4,
    "NVIDIA B200": 2250.0,
    "NVIDIA A100": 312.0,  # also Leonardo's of 64 GB
    "AMD Instinct MI250X": 191.5,  # one of the two dies of a card, which software sees as a GPU
    "AMD Instinct MI300X": 1307.4,
    "NVIDIA L40S": 362.0,
    "NVIDIA GeForce RTX 4090": 165.2,
    "NVIDIA GeForce RTX 3090": 71.0,
}


def flops_per_token(model: ModelConfig, seq_length: int, *, causal: bool) -> float:
    """Return the operations, forward and backward, for one predicted token, recomputation not counted.

    They are six per weight of a matrix product (the output layer counts, the embedding look-up does not), and for attention
    scores and values 12 * layers * heads * head size * sequence where every position attends to every other ("full", as
    Megatron and PaLM count), half of it where only the causal half counts. In a layer with a sliding window of w positions,
    sequence is w; of these, all but the first w positions of a sequence see w, and causally those see half.

    Source: Chowdhery et al., PaLM, 2022, appendix B; Narayanan et al., 2021 (arXiv:2104.04473), section 5.1.
    """
    seen = sum(positions_seen(model, layer, seq_length, causal=causal) for layer in range(model.num_layers))
    return 6 * product_weights(model) + 12 * model.num_attention_heads * kv_channels(model) * seen


def positions_seen(model: ModelConfig, layer: int, seq_length: int, *, causal: bool) -> float:
    """Return the mean number of positions that a position attends to in a layer."""
    window = model.sliding_window if has_sliding_window(model, layer) else None
    width = seq_length if window is None else min(window, seq_length)
    return width - width**2 / (2 * seq_length) if causal else width


def peak_tflops(device_name: str, precision: Literal["bf16", "fp32"] = "bf16") -> float | None:
    """Return the dense peak of a GPU in TFLOP/s, by the longest name that matches; None where it is not known, as in fp32."""
    if precision != "bf16":
        return None
    known = [name for name in PEAK_TFLOPS if device_name.startswith(name)]
    return PEAK_TFLOPS[max(known, key=len)] if known else None


def model_flops_utilization(
    *, tokens_per_second_per_gpu: float, flops_per_token: float, peak_tflops: float | None
) -> float | None:
    """Return the MFU, the share of the peak that goes into the model, 0 to 1; None where the peak is not known."""
    if peak_tflops is None:
        return None
    return tokens_per_second_per_gpu * flops_per_token / (peak_tflops * 1e12)
