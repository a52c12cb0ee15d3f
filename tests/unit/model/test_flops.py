"""FLOPs by hand."""

from dataclasses import replace

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
