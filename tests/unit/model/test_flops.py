"""FLOPs by hand."""

from dataclasses import replace
from typing import Literal

import pytest

from pretrain.config.schema import ModelConfig
from pretrain.model.families.sizes import num_parameters
from pretrain.model.flops import PEAK_TFLOPS, flops_per_token, model_flops_utilization, peak_tflops

# The model behind llm-foundry's published 1B figures is close; 24 layers, hidden 2048, sequence 4096.
MODEL = ModelConfig(
    num_layers=24, hidden_size=2048, ffn_hidden_size=5632, num_attention_heads=16, num_query_groups=8, vocab_size=32768
)


def test_every_weight_of_a_product_counts_six_and_the_embedding_look_up_nothing() -> None:
    norms = 24 * 2 * 2048 + 2048
    weights = num_parameters(MODEL) - norms - 32768 * 2048
    scores = 12 * 24 * 16 * 128 * 4096
    assert flops_per_token(MODEL, 4096, causal=False) == 6 * weights + scores
    assert flops_per_token(MODEL, 4096, causal=True) == 6 * weights + scores / 2


def test_lucie_7b_s_operations_a_token_are_those_counted_by_hand() -> None:
    lucie = ModelConfig(
        num_layers=32, hidden_size=4096, ffn_hidden_size=12288, num_attention_heads=32, num_query_groups=8, vocab_size=65024
    )  # fmt: skip
    products = 32 * (4096 * 4096 * 2 + 4096 * 1024 * 2 + 3 * 4096 * 12288) + 65024 * 4096  # 6.44 G weights
    attention = 12 * 32 * 4096 * 4096  # 12 * layers * hidden * sequence
    assert flops_per_token(lucie, 4096, causal=False) == 6 * products + attention == 45_084_573_696
    assert flops_per_token(lucie, 4096, causal=True) == 6 * products + attention / 2
    assert flops_per_token(lucie, 4096, causal=True) / (6 * num_parameters(lucie)) == pytest.approx(1.04, abs=0.01), (
        "6N and attention"
    )


def test_a_longer_sequence_costs_attention_alone() -> None:
    longer, shorter = (flops_per_token(MODEL, length, causal=False) for length in (8192, 4096))
    assert longer - shorter == 12 * 24 * 2048 * 4096


def seen_by_brute_force(window: int | None, length: int) -> int:
    """Pairs of a position and one that it sees, itself included."""
    return sum(
        1 for position in range(length) for other in range(position + 1) if window is None or position - other < window
    )


LENGTH = 32
SIX_LAYERS = replace(MODEL, num_layers=6)
OF_A_PAIR = 12 * 16 * 128
"""Operations for one position that a position sees, in one layer: scores and values, forward and backward, of all heads."""


def attention_of(model: ModelConfig, *, causal: bool) -> float:
    """Operations of attention for a sample of LENGTH: what is not for matrix products."""
    assert model.num_layers == 6
    products = flops_per_token(SIX_LAYERS, LENGTH, causal=False) - 6 * OF_A_PAIR * LENGTH
    return LENGTH * (flops_per_token(model, LENGTH, causal=causal) - products)


@pytest.mark.parametrize("interval", [None, 2, 4, 6])
@pytest.mark.parametrize("window", [1, 2, 7, 31, 32, 33, 4096])
def test_a_window_costs_the_positions_that_are_seen_counted_one_by_one(window: int, interval: int | None) -> None:
    model = replace(SIX_LAYERS, sliding_window=window, full_attention_layer_interval=interval)
    windows = [None if interval is not None and number % interval == 0 else window for number in range(1, 7)]
    widths = [LENGTH if one is None else min(one, LENGTH) for one in windows]
    # The half of a square without windows is length^2 / 2, half a diagonal less than the pairs; of a band it is half its width.
    pairs = sum(seen_by_brute_force(one, LENGTH) - width / 2 for one, width in zip(windows, widths, strict=True))
    assert attention_of(model, causal=True) == pytest.approx(OF_A_PAIR * pairs)
    assert attention_of(model, causal=False) == pytest.approx(OF_A_PAIR * LENGTH * sum(widths))


@pytest.mark.parametrize("causal", [False, True])
def test_a_window_as_long_as_the_sequence_costs_what_none_costs(causal: bool) -> None:
    for window in (LENGTH, LENGTH + 1, 2**31 - 1):
        for interval in (None, 2):
            model = replace(SIX_LAYERS, sliding_window=window, full_attention_layer_interval=interval)
            assert attention_of(model, causal=causal) == attention_of(SIX_LAYERS, causal=causal)


@pytest.mark.parametrize(("activation", "matrices"), [("swiglu", 3), ("geglu", 3), ("squared_relu", 2), ("xielu", 2)])
def test_a_feed_forward_without_a_gate_has_two_matrices(
    activation: Literal["swiglu", "geglu", "squared_relu", "xielu"], matrices: int
) -> None:
    narrow = replace(MODEL, activation=activation, ffn_hidden_size=1024)
    wide = replace(narrow, ffn_hidden_size=2048)
    more = flops_per_token(wide, 4096, causal=False) - flops_per_token(narrow, 4096, causal=False)
    assert more == 6 * 24 * matrices * 2048 * 1024


def test_norms_biases_caps_and_positions_are_no_matrix_products() -> None:
    dressed = replace(
        MODEL, normalization="LayerNorm", norm_placement="both", qk_layernorm=True, qk_layernorm_scope="full", add_qkv_bias=True,
        attention_logit_softcap=50.0, final_logit_softcap=30.0, rotary_percent=0.5, embedding_scale="sqrt_hidden_size",
    )  # fmt: skip
    assert num_parameters(dressed) > num_parameters(MODEL)
    assert flops_per_token(dressed, 4096, causal=False) == flops_per_token(MODEL, 4096, causal=False)


def test_a_device_never_seen_has_no_peak_though_its_name_begins_alike() -> None:
    assert peak_tflops("NVIDIA H100", "fp32") is None, (
        "the table has bf16 peaks: a share of one would be no utilisation of fp32"
    )
    assert peak_tflops("NVIDIA H10") is None and peak_tflops("") is None and peak_tflops("AMD MI300X") is None


def test_tied_embeddings_do_the_same_work() -> None:
    tied = replace(MODEL, share_embeddings_and_output_weights=True)
    assert flops_per_token(tied, 4096, causal=False) == flops_per_token(MODEL, 4096, causal=False)


def test_utilization_is_work_over_peak_and_unknown_without_a_peak() -> None:
    share = model_flops_utilization(tokens_per_second_per_gpu=50_000, flops_per_token=8e9, peak_tflops=1000)
    assert share == pytest.approx(0.4)
    assert model_flops_utilization(tokens_per_second_per_gpu=1, flops_per_token=1, peak_tflops=None) is None


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA H100 80GB HBM3", 989.4), ("NVIDIA H100 PCIe", 756.0), ("NVIDIA A100-SXM4-80GB", 312.0), ("cpu", None)],
)
def test_the_longest_name_that_fits_gives_the_peak(name: str, peak: float | None) -> None:
    assert peak_tflops(name) == peak
    assert len(PEAK_TFLOPS) > 5
