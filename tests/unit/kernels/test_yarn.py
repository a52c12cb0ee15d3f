"""YaRN's frequencies and attention factor, against those of transformers."""

import math

import pytest
import torch

from fanal.kernels.reference import rotary_frequencies, yarn_attention_factor, yarn_frequencies


@pytest.mark.parametrize(
    ("head_size", "theta", "factor", "original_length", "betas"),
    [
        (128, 1e6, 4.0, 32768, (32.0, 1.0)),
        (64, 1e4, 40.0, 4096, (32.0, 1.0)),
        (48, 5e5, 2.5, 8192, (16.0, 2.0)),
        (16, 1e4, 8.0, 64, (32.0, 1.0)),  # no pair is fast: the first bound is clamped to zero
        (8, 100.0, 8.0, 100_000, (32.0, 1.0)),  # even the slowest pair turns often: the last bound is clamped to d - 1
        (2, 1e4, 4.0, 7, (1.0, 1.0)),  # both bounds meet
    ],
)
def test_frequencies_and_factor_are_those_of_transformers(
    head_size: int, theta: float, factor: float, original_length: int, betas: tuple[float, float]
) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    stated = {
        "rope_type": "yarn", "rope_theta": theta, "factor": factor, "beta_fast": betas[0], "beta_slow": betas[1],
        "original_max_position_embeddings": original_length,
    }  # fmt: skip
    config = LlamaConfig(hidden_size=4 * head_size, num_attention_heads=4, rope_parameters=stated)
    expected, attention_factor = ROPE_INIT_FUNCTIONS["yarn"](config, torch.device("cpu"))
    plain = rotary_frequencies(head_size, theta)
    arguments = {"theta": theta, "factor": factor, "beta_fast": betas[0], "beta_slow": betas[1]}
    found = yarn_frequencies(plain, **arguments, original_length=original_length)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    assert yarn_attention_factor(factor) == attention_factor
    if head_size > 16:  # planted fault: another original length
        assert not torch.allclose(yarn_frequencies(plain, **arguments, original_length=2 * original_length), expected)
        shares = found / plain
        assert shares[0] == 1 and shares[-1] == pytest.approx(1 / factor, rel=1e-6)
        assert ((shares > 1.01 / factor) & (shares < 0.99)).any(), "all three parts"


def test_a_factor_of_one_changes_nothing() -> None:
    plain = rotary_frequencies(64, 1e4)
    torch.testing.assert_close(yarn_frequencies(plain, theta=1e4, factor=1.0, original_length=4096), plain)
    assert yarn_attention_factor(1.0) == yarn_attention_factor(0.5) == 1.0
    assert yarn_attention_factor(math.e) == pytest.approx(1.1)
