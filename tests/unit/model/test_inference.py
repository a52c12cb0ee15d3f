"""The decoder for looking at a model: against a Llama written from the papers, and with its cache against itself without."""

import numpy as np
import pytest
import torch

from pretrain.config.schema import ModelConfig
from pretrain.convert.ours.names import our_shapes
from pretrain.model import inference
from pretrain.model.inference import InferenceDecoder
from tests.reference.llama import LlamaShape, ReferenceLlama

MODEL = ModelConfig(
    num_layers=2, hidden_size=32, ffn_hidden_size=48, num_attention_heads=6, num_query_groups=2, kv_channels=8,
    vocab_size=100, rotary_base=2000.0, layernorm_epsilon=1e-3,
)  # fmt: skip
TIED = ModelConfig(**{**MODEL.__dict__, "share_embeddings_and_output_weights": True})


def weights_of(model: ModelConfig) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(8)
    return {
        name: generator.normal(1.0 if len(shape) == 1 else 0.0, 0.3, shape).astype(np.float32)
        for name, shape in our_shapes(model).items()
    }


def decoder_of(model: ModelConfig, dtype: torch.dtype = torch.float32) -> InferenceDecoder:
    device = torch.device("cpu")
    return InferenceDecoder(
        model, weights_of(model).__getitem__, vocab_size=model.vocab_size, device=device, dtype=dtype
    )


def tokens_of(batch: int, length: int) -> torch.Tensor:
    return torch.randint(0, MODEL.vocab_size, (batch, length), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("model", [MODEL, TIED], ids=["untied", "tied"])
def test_its_logits_are_those_of_an_independent_llama(model: ModelConfig) -> None:
    shape = LlamaShape(
        num_layers=2, hidden_size=32, ffn_hidden_size=48, num_attention_heads=6, num_query_groups=2, kv_channels=8,
        vocab_size=100, rotary_base=2000.0, layernorm_epsilon=1e-3, tied=model.share_embeddings_and_output_weights,
    )  # fmt: skip
    reference = ReferenceLlama(shape, {name: torch.from_numpy(values) for name, values in weights_of(model).items()})
    tokens = tokens_of(3, 40)
    with torch.no_grad():
        expected = reference(tokens)
    torch.testing.assert_close(decoder_of(model).logits(tokens), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("cuts", [[1] * 40, [7, 1, 1, 31], [40]])
@pytest.mark.parametrize("block", [512, 16])
def test_with_the_cache_it_says_what_it_says_without(
    cuts: list[int], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, tokens = decoder_of(MODEL), tokens_of(2, 40)
    expected = decoder.logits(tokens)
    monkeypatch.setattr(inference, "BLOCK_TOKENS", block)
    cache = decoder.new_cache(50, batch=2)
    found = torch.cat([decoder.logits(part, cache) for part in tokens.split(cuts, dim=1)], dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    assert cache.length == 40
    torch.testing.assert_close(decoder.logits(tokens, last_only=True), expected[:, -1:], rtol=1e-5, atol=1e-4)


def test_a_cache_that_forgets_one_position_would_be_seen() -> None:
    decoder, tokens = decoder_of(MODEL), tokens_of(1, 20)
    cache = decoder.new_cache(20)
    decoder.logits(tokens[:, :10], cache)
    cache.values[:, 0, 3] = 0
    found = decoder.logits(tokens[:, 10:], cache)
    assert (found - decoder.logits(tokens)[:, 10:]).abs().max() > 1e-2


def test_no_position_sees_a_later_token() -> None:
    decoder, tokens = decoder_of(MODEL), tokens_of(1, 20)
    changed = tokens.clone()
    changed[0, 12:] = (changed[0, 12:] + 1) % 100
    assert torch.equal(decoder.logits(tokens)[:, :12], decoder.logits(changed)[:, :12])


def test_in_bf16_it_is_the_same_model_rounded() -> None:
    exact, rounded = (
        decoder_of(MODEL).logits(tokens_of(1, 20)),
        decoder_of(MODEL, torch.bfloat16).logits(tokens_of(1, 20)),
    )
    assert rounded.dtype == torch.float32
    assert (exact - rounded).norm() / exact.norm() < 0.03
