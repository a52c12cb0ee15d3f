"""The model for inference: a plain decoder with a KV cache, on one device, without megatron-core.

Its operations are the definitions in kernels/reference.py where they fit, so that it checks independently what the trainer
computes. Weights have the trainer's names and layout.

Shapes, batch first: b batch, s new positions, t all positions so far, h hidden, n query heads, g query groups, r = n / g,
d head size, v vocabulary.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from fanal.kernels.reference import rms_norm, rotary_angles, rotary_frequencies, swiglu
from pretrain.config.derive import has_rotary_positions, kv_channels
from pretrain.config.schema import ModelConfig
from pretrain.model.families import table_of
from pretrain.model.families.table import (
    ATTENTION_OUTPUT,
    DOWN,
    EMBEDDING,
    FEED_FORWARD_NORM,
    FINAL_NORM,
    GATE_AND_UP,
    INPUT_NORM,
    KEY_NORM,
    OUTPUT,
    PLACES,
    QUERY_KEY_VALUE,
    QUERY_NORM,
    layer_tensor,
)
from pretrain.model.rotary import scaled_frequencies

BLOCK_TOKENS = 512
"""New positions that go through the layers at a time: the scores of a whole long prompt would fill the memory."""


LayerWeights = Mapping[str, Tensor]
"""Tensors of one layer in the trainer's layout, by the places that the model's family fills."""


class Cache:
    """KV cache: keys and values of every layer, [b, t, g, d] each, with room for ``max_length`` positions."""

    def __init__(self, decoder: "InferenceDecoder", max_length: int, batch: int) -> None:
        model = decoder.model
        shape = (model.num_layers, batch, max_length, model.num_query_groups, kv_channels(model))
        self.keys = torch.empty(shape, dtype=decoder.dtype, device=decoder.device)
        self.values = torch.empty_like(self.keys)
        frequencies = scaled_frequencies(
            model, rotary_frequencies(kv_channels(model), model.rotary_base, decoder.device)
        )
        angles = rotary_angles(max_length, frequencies)
        self.cos, self.sin = angles.cos()[:, None, :], angles.sin()[:, None, :]  # [max_length, 1, d/2]
        self.length = 0
        """Number of positions in the cache."""

    @property
    def max_length(self) -> int:
        """Number of positions that fit in the cache."""
        return self.keys.shape[2]


class InferenceDecoder:
    """Decoder of any of our families, with one copy of the weights in memory."""

    def __init__(
        self,
        model: ModelConfig,
        read: Callable[[str], np.ndarray],
        *,
        vocab_size: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Load the weights.

        Args: read: returns a whole tensor, float32, by the trainer's name; vocab_size: number of tokens that have logits.
        """
        self.model, self.device, self.dtype = model, device, dtype

        def take(name: str, rows: int | None = None) -> Tensor:
            return torch.from_numpy(read(name)[:rows]).to(device=device, dtype=dtype)

        self.embedding = take(EMBEDDING, vocab_size)
        places = [spec.name for spec in table_of(model).layer]
        assert set(places).issubset(PLACES), f"{set(places).difference(PLACES)} are not used by this decoder"
        self.layers: list[LayerWeights] = [
            {place: take(layer_tensor(number, place)) for place in places} for number in range(model.num_layers)
        ]
        self.final_norm = take(FINAL_NORM)
        self.output = self.embedding if model.share_embeddings_and_output_weights else take(OUTPUT, vocab_size)

    @property
    def position_bytes(self) -> int:
        """Bytes that a position of one sequence takes in a cache."""
        model = self.model
        keys_and_values = 2 * model.num_layers * model.num_query_groups * kv_channels(model) * self.dtype.itemsize
        angles = 3 * kv_channels(model) // 2 * 4  # the angles, their cosines and their sines
        return keys_and_values + angles

    def new_cache(self, max_length: int, *, batch: int = 1) -> Cache:
        """Return an empty cache."""
        return Cache(self, max_length, batch)

    @torch.inference_mode()
    def logits(self, tokens: Tensor, cache: Cache | None = None, *, last_only: bool = False) -> Tensor:
        """Compute the logits of the next token after each position, or after the last one alone.

        Args: tokens: integers [b, s], which follow those in the cache, and are added to it; cache: None is an empty one.
        Returns: float32 [b, s or 1, v] on the decoder's device.
        """
        cache = cache or self.new_cache(tokens.shape[1], batch=tokens.shape[0])
        assert cache.length + tokens.shape[1] <= cache.max_length, "the cache is too small"
        parts = []
        for block in tokens.to(self.device).split(BLOCK_TOKENS, dim=1):
            hidden = self._layers(block, cache)
            if not last_only:
                parts.append(self._score(hidden))
        return self._score(hidden[:, -1:]) if last_only else torch.cat(parts, dim=1)  # type: ignore[possibly-undefined]

    def _score(self, hidden: Tensor) -> Tensor:
        hidden = rms_norm(hidden, self.final_norm, self.model.layernorm_epsilon)
        return (hidden @ self.output.T).float()

    def _layers(self, tokens: Tensor, cache: Cache) -> Tensor:
        hidden = self.embedding[tokens]  # [b, s, h]
        for number, layer in enumerate(self.layers):
            hidden = hidden + self._attention(self._normed(hidden, layer, INPUT_NORM), layer, number, cache)
            gate, up = (self._normed(hidden, layer, FEED_FORWARD_NORM) @ layer[GATE_AND_UP].T).chunk(2, dim=-1)
            hidden = hidden + swiglu(gate, up) @ layer[DOWN].T
        cache.length += tokens.shape[1]
        return hidden

    def _normed(self, x: Tensor, layer: LayerWeights, place: str) -> Tensor:
        """Apply the norm at a place; return the input itself where the family has no norm there."""
        return rms_norm(x, layer[place], self.model.layernorm_epsilon) if place in layer else x

    def _attention(self, x: Tensor, layer: LayerWeights, number: int, cache: Cache) -> Tensor:
        batch, length, _ = x.shape
        groups, head_size = self.model.num_query_groups, kv_channels(self.model)
        start, end = cache.length, cache.length + length
        mixed = (x @ layer[QUERY_KEY_VALUE].T).view(batch, length, groups, -1, head_size)  # [b, s, g, r + 2, d]
        query = self._normed(mixed[:, :, :, :-2], layer, QUERY_NORM)
        key, value = self._normed(mixed[:, :, :, -2:-1], layer, KEY_NORM), mixed[:, :, :, -1]
        if has_rotary_positions(self.model, number):
            cos, sin = cache.cos[start:end, None], cache.sin[start:end, None]  # [s, 1, 1, d/2]
            query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
        cache.keys[number, :, start:end] = key.squeeze(3)
        cache.values[number, :, start:end] = value
        keys, values = cache.keys[number, :, :end], cache.values[number, :, :end]  # [b, t, g, d]
        scores = torch.einsum("bsgrd,btgd->bgrst", query, keys).float() * head_size**-0.5
        positions = torch.arange(end, device=x.device)
        unseen = positions[None, :] > positions[start:, None]  # [s, t]
        probabilities = scores.masked_fill(unseen, float("-inf")).softmax(dim=-1).to(values.dtype)
        context = torch.einsum("bgrst,btgd->bsgrd", probabilities, values)
        return context.reshape(batch, length, -1) @ layer[ATTENTION_OUTPUT].T


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate channel i of each head with channel i + d/2, as in kernels/reference.py, at any positions. x [b, s, g, r, d]."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
