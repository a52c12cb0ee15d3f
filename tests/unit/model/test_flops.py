"""FLOPs by hand."""

from dataclasses import replace

import pytest

from pretrain.config.derive import num_parameters
from pretrain.config.schema import ModelConfig
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
