"""The definitions themselves, against torch's own operations and against a second derivation.

Shapes: s sequence, b micro batch, h hidden, n query heads, g query groups, d head size, f feed-forward size, v
vocabulary.
"""

import math
import re

import pytest
import torch
import torch.nn.functional as F

from fanal.kernels.reference import (
    causal_grouped_attention,
    cross_entropy,
    llama3_frequencies,
    rms_norm,
    rotary_embedding,
    rotary_frequencies,
    soft_cap,
    swiglu,
    z_loss,
)

DTYPES = [torch.float32, torch.bfloat16]


def random(*size: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_rms_norm_makes_the_root_mean_square_one_and_eps_damps_small_inputs() -> None:
    x, weight = random(5, 3, 33), torch.ones(33)
    assert rms_norm(7 * x, weight, 1e-12).square().mean(-1).sqrt() == pytest.approx(torch.ones(5, 3), abs=1e-6)
    # With x constant at c, the result is c / sqrt(c^2 + eps): 1/sqrt(2) at c^2 = eps.
    assert rms_norm(torch.full((1, 33), 1e-3), weight, 1e-6).numpy() == pytest.approx(1 / math.sqrt(2), rel=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_size", [2, 48, 64, 128])
def test_rotary_embedding_is_a_turn_of_complex_numbers(dtype: torch.dtype, head_size: int) -> None:
    x = random(7, 2, 3, head_size, dtype=dtype)  # [s, b, n, d]
    pairs = torch.complex(*x.double().chunk(2, dim=-1))  # channel i with channel i + d/2
    frequency = 10_000.0 ** (-2 * torch.arange(head_size // 2).double() / head_size)
    angle = torch.arange(7).double()[:, None] * frequency  # [s, d/2]
    turned = pairs * torch.polar(torch.ones_like(angle), angle)[:, None, None]
    expected = torch.cat([turned.real, turned.imag], dim=-1)
    # Rounding once, at the end: half a unit in the last place in bf16. In fp32 the angle itself is rounded: 7 radians *
    # 2^-24.
    rtol, atol = (2**-8, 1e-6) if dtype == torch.bfloat16 else (1e-6, 5e-6)
    torch.testing.assert_close(rotary_embedding(x, 10_000.0).double(), expected, rtol=rtol, atol=atol)

    if head_size > 2:  # planted fault: neighbouring channels paired, as in the paper, instead of halves
        neighbours = (
            torch.view_as_complex(x.double().view(7, 2, 3, -1, 2))
            * torch.polar(torch.ones_like(angle), angle)[:, None, None]
        )
        assert (torch.view_as_real(neighbours).flatten(-2) - expected).abs().max() > 0.1


def test_frequencies_of_llama_3_are_those_of_transformers() -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    stated = {"rope_type": "llama3", "rope_theta": 5e5, "original_max_position_embeddings": 8192, **scaling}
    config = LlamaConfig(hidden_size=512, num_attention_heads=4, rope_parameters=stated)
    expected, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = rotary_frequencies(128, 5e5)
    found = llama3_frequencies(plain, **scaling, original_length=8192)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    shares = found / plain
    assert shares[0] == 1 and shares[-1] == 0.125 and ((shares > 0.13) & (shares < 0.99)).any(), "all three parts"


def test_rotary_embedding_leaves_position_zero_and_lengths_alone() -> None:
    x = random(5, 1, 2, 16)
    turned = rotary_embedding(x, 500.0)
    assert torch.equal(turned[0], x[0])
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    with pytest.raises(AssertionError, match=re.escape("head_size (15) must be even")):
        rotary_embedding(x[..., :15], 500.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_swiglu_is_silu_of_the_gate_times_up(dtype: torch.dtype) -> None:
    gate, up = random(5, 3, 31, dtype=dtype, seed=1), random(5, 3, 31, dtype=dtype, seed=2)
    result = swiglu(gate, up)
    assert result.dtype == dtype
    expected = F.silu(gate.float()) * up.float()
    rtol = 2**-8 if dtype == torch.bfloat16 else 1e-6  # rounded once
    torch.testing.assert_close(result.float(), expected, rtol=rtol, atol=1e-6)
    swapped = F.silu(up.float()) * gate.float()  # planted fault: the halves exchanged
    assert not torch.allclose(result.float(), swapped, rtol=rtol, atol=1e-6)
    with pytest.raises(AssertionError, match="same shape"):
        swiglu(gate, up[..., :30])


@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_equals_torchs_and_survives_large_logits(dtype: torch.dtype) -> None:
    logits, labels = random(5, 3, 37, dtype=dtype), torch.arange(15).view(5, 3)
    logits[0, 0, 3] = 300.0  # exp overflows in fp32 unless the maximum is taken out
    result = cross_entropy(logits, labels)
    assert result.dtype == torch.float32
    expected = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none").view(5, 3)
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-5)
    shifted = cross_entropy(logits, labels.roll(1))  # planted fault: labels off by one
    assert not torch.allclose(shifted, expected, rtol=1e-6, atol=1e-5)
    with pytest.raises(AssertionError, match="labels"):
        cross_entropy(logits, labels.T)


@pytest.mark.parametrize("dtype", DTYPES)
def test_z_loss_is_the_square_of_the_log_of_the_normaliser(dtype: torch.dtype) -> None:
    logits = random(5, 3, 37, dtype=dtype)
    result = z_loss(logits)
    assert result.dtype == torch.float32
    expected = (logits.double().exp().sum(-1)).log() ** 2
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-6)
    mean = logits.double().exp().mean(-1).log() ** 2  # planted fault
    assert not torch.allclose(result.double(), mean, rtol=1e-5, atol=1e-6)
    assert z_loss(torch.full((1, 2), 300.0)).isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_soft_cap_leaves_small_values_and_bounds_large_ones(dtype: torch.dtype) -> None:
    x = torch.tensor([-1e4, -0.5, 0.0, 0.25, 30.0, 1e4]).to(dtype)
    expected = torch.tensor([-30.0, -30 * math.tanh(0.5 / 30), 0.0, 30 * math.tanh(0.25 / 30), 30 * math.tanh(1), 30.0])
    rtol = 2**-8 if dtype == torch.bfloat16 else 1e-6  # rounded once
    assert soft_cap(x, 30.0).dtype == dtype
    torch.testing.assert_close(soft_cap(x, 30.0).float(), expected, rtol=rtol, atol=0)
    assert not torch.allclose(soft_cap(x, 31.0).float(), expected, rtol=rtol, atol=0)


@pytest.mark.parametrize("window", [1, 3, 4, 5, 6])
def test_attention_with_a_window_and_a_cap_equals_a_loop_over_heads_and_positions(window: int) -> None:
    query, key, value = (random(5, 1, n, 6, seed=n + i) for i, n in enumerate([4, 2, 2]))
    expected, shorter = torch.zeros(5, 1, 4, 6), torch.zeros(5, 1, 4, 6)
    for head in range(4):
        for position in range(5):
            for result, seen in ((expected, window), (shorter, window - 1)):
                visible = slice(max(0, position + 1 - seen), position + 1)
                scores = key[visible, 0, head // 2] @ query[position, 0, head] / math.sqrt(6)
                result[position, 0, head] = (0.7 * (scores / 0.7).tanh()).softmax(0) @ value[visible, 0, head // 2]
    found = causal_grouped_attention(query, key, value, window=window, soft_cap=0.7)
    torch.testing.assert_close(found, expected.flatten(2), rtol=1e-5, atol=1e-6)
    # Planted faults: a window that is one too short, no cap.
    assert torch.allclose(found, shorter.flatten(2), rtol=1e-5, atol=1e-6) == (window == 6)
    uncapped = causal_grouped_attention(query, key, value, window=window)
    assert torch.allclose(found, uncapped, rtol=1e-5, atol=1e-6) == (window == 1)  # softmax of one score
    with pytest.raises(AssertionError, match=r"window \(0\) must be at least 1"):
        causal_grouped_attention(query, key, value, window=0)


@pytest.mark.parametrize("num_groups", [1, 2, 4, 8])
def test_attention_equals_a_loop_over_heads_and_positions(num_groups: int) -> None:
    seq_length, num_heads, head_size = 5, 8, 6
    query, key, value = (
        random(seq_length, 1, n, head_size, seed=n + i) for i, n in enumerate([8, num_groups, num_groups])
    )
    expected = torch.zeros(seq_length, 1, num_heads, head_size)
    for head in range(num_heads):
        group = head // (num_heads // num_groups)
        for position in range(seq_length):
            scores = key[: position + 1, 0, group] @ query[position, 0, head] / math.sqrt(head_size)
            expected[position, 0, head] = scores.softmax(0) @ value[: position + 1, 0, group]
    result = causal_grouped_attention(query, key, value)
    assert result.shape == (seq_length, 1, num_heads * head_size)
    torch.testing.assert_close(result, expected.flatten(2), rtol=1e-5, atol=1e-6)


def test_gradients_of_all_definitions_match_finite_differences() -> None:
    def double(*size: int, seed: int) -> torch.Tensor:
        return random(*size, dtype=torch.float64, seed=seed).requires_grad_()

    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, 1e-5), (double(3, 2, 5, seed=1), double(5, seed=2)))
    assert torch.autograd.gradcheck(lambda x: rotary_embedding(x, 100.0), (double(3, 1, 2, 4, seed=3),))
    assert torch.autograd.gradcheck(swiglu, (double(3, 5, seed=4), double(3, 5, seed=5)))
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, torch.tensor([1, 4])), (double(2, 7, seed=6),))
    heads = (double(3, 1, 4, 2, seed=7), double(3, 1, 2, 2, seed=8), double(3, 1, 2, 2, seed=9))
    assert torch.autograd.gradcheck(causal_grouped_attention, heads)
    assert torch.autograd.gradcheck(lambda *qkv: causal_grouped_attention(*qkv, window=2, soft_cap=0.7), heads)
    assert torch.autograd.gradcheck(lambda x: soft_cap(x, 0.7), (double(3, 5, seed=10),))
    assert torch.autograd.gradcheck(z_loss, (double(3, 5, seed=11),))
