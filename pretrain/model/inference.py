"""The model for inference: a plain decoder with a KV cache, on one device, without megatron-core.

Its operations are the definitions in kernels/reference.py where they fit, so that it checks independently what the trainer
computes. Weights have the trainer's names and layout.

Shapes, batch first: b batch, s new positions, t all positions so far, h hidden, n query heads, g query groups, r = n / g,
d head size, c channels of a head that turn, v vocabulary.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from fanal.kernels.reference import (
    geglu,
    layer_norm,
    rms_norm,
    rotary_angles,
    soft_cap,
    squared_relu,
    swiglu,
    xielu,
)
from pretrain.config.derive import (
    has_gate,
    has_rotary_positions,
    has_sliding_window,
    kv_channels,
    rotary_channels,
)
from pretrain.config.schema import ModelConfig
from pretrain.model.embedding import scaled_embedding
from pretrain.model.families.table import (
    ATTENTION_OUTPUT,
    DOWN,
    EMBEDDING,
    FEED_FORWARD_INPUT,
    FEED_FORWARD_NORM,
    FINAL_NORM,
    INPUT_NORM,
    KEY_NORM,
    OUTPUT,
    PLACES,
    POST_ATTENTION_NORM,
    POST_FEED_FORWARD_NORM,
    QUERY_KEY_VALUE,
    QUERY_KEY_VALUE_BIAS,
    QUERY_NORM,
    XIELU_ALPHA_N,
    XIELU_ALPHA_P,
    layer_tensor,
)
from pretrain.model.families.tensors import bias_of, table_of
from pretrain.model.rotary import attention_factor, kind_of, layer_frequencies

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
        kinds = [rotary_angles(max_length, frequencies) for frequencies in layer_frequencies(model)]
        angles = torch.stack(kinds).to(decoder.device)[:, :, None, None]  # [kinds of layers, max_length, 1, 1, c/2]
        self.cos, self.sin = angles.cos(), angles.sin()
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
        self.last: LayerWeights = {spec.name: take(spec.name) for spec in table_of(model).last if spec.name != OUTPUT}
        self.output = self.embedding if model.share_embeddings_and_output_weights else take(OUTPUT, vocab_size)

    @property
    def position_bytes(self) -> int:
        """Bytes that a position of one sequence takes in a cache."""
        model = self.model
        keys_and_values = 2 * model.num_layers * model.num_query_groups * kv_channels(model) * self.dtype.itemsize
        angles = (
            3 * len(layer_frequencies(model)) * rotary_channels(model) // 2 * 4
        )  # they, their cosines and their sines
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
        logits = (self._normed(hidden, self.last, FINAL_NORM) @ self.output.T).float()
        cap = self.model.final_logit_softcap
        return logits if cap is None else soft_cap(logits, cap)

    def _layers(self, tokens: Tensor, cache: Cache) -> Tensor:
        hidden = scaled_embedding(self.embedding[tokens], self.model)  # [b, s, h]
        for number, layer in enumerate(self.layers):
            attended = self._attention(self._normed(hidden, layer, INPUT_NORM), layer, number, cache)
            hidden = hidden + self._normed(attended, layer, POST_ATTENTION_NORM)
            fed = self._feed_forward(self._normed(hidden, layer, FEED_FORWARD_NORM), layer)
            hidden = hidden + self._normed(fed, layer, POST_FEED_FORWARD_NORM)
        cache.length += tokens.shape[1]
        return hidden

    def _normed(self, x: Tensor, weights: LayerWeights, place: str) -> Tensor:
        """Apply the norm of the residual stream at a place; return the input itself where the model has no norm there."""
        if place not in weights:
            return x
        eps, zero_centered = self.model.layernorm_epsilon, self.model.layernorm_zero_centered_gamma
        if self.model.normalization == "LayerNorm":
            return layer_norm(x, weights[place], weights[bias_of(place)], eps, zero_centered)
        return rms_norm(x, weights[place], eps, zero_centered)

    def _normed_heads(self, heads: Tensor, layer: LayerWeights, place: str) -> Tensor:
        """Apply the norm of queries or keys, if the model has one: [b, s, g, r, d]."""
        if place not in layer:
            return heads
        is_full = self.model.qk_layernorm_scope == "full"
        x = heads.flatten(2) if is_full else heads
        eps, zero_centered = self.model.layernorm_epsilon, self.model.layernorm_zero_centered_gamma
        return rms_norm(x, layer[place], eps, zero_centered).view(heads.shape)

    def _feed_forward(self, x: Tensor, layer: LayerWeights) -> Tensor:
        wide = x @ layer[FEED_FORWARD_INPUT].T
        if has_gate(self.model):
            gate, up = wide.chunk(2, dim=-1)
            active = swiglu(gate, up) if self.model.activation == "swiglu" else geglu(gate, up)
        elif self.model.activation == "squared_relu":
            active = squared_relu(wide)
        else:
            active = xielu(wide, layer[XIELU_ALPHA_P], layer[XIELU_ALPHA_N])
        return active @ layer[DOWN].T

    def _attention(self, x: Tensor, layer: LayerWeights, number: int, cache: Cache) -> Tensor:
        batch, length, _ = x.shape
        groups, head_size = self.model.num_query_groups, kv_channels(self.model)
        start, end = cache.length, cache.length + length
        mixed = x @ layer[QUERY_KEY_VALUE].T
        if QUERY_KEY_VALUE_BIAS in layer:
            mixed = mixed + layer[QUERY_KEY_VALUE_BIAS]
        mixed = mixed.view(batch, length, groups, -1, head_size)  # [b, s, g, r + 2, d]
        query = self._normed_heads(mixed[:, :, :, :-2], layer, QUERY_NORM)
        key, value = self._normed_heads(mixed[:, :, :, -2:-1], layer, KEY_NORM), mixed[:, :, :, -1]
        if has_rotary_positions(self.model, number):
            kind, factor = kind_of(self.model, number), attention_factor(self.model, number)
            cos, sin = (table[kind, start:end] * factor for table in (cache.cos, cache.sin))  # [s, 1, 1, c/2]
            query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
        cache.keys[number, :, start:end] = key.squeeze(3)
        cache.values[number, :, start:end] = value
        keys, values = cache.keys[number, :, :end], cache.values[number, :, :end]  # [b, t, g, d]
        scores = torch.einsum("bsgrd,btgd->bgrst", query, keys).float()
        scores = scores * (self.model.query_pre_attention_scalar or head_size) ** -0.5
        if self.model.attention_logit_softcap is not None:
            scores = soft_cap(scores, self.model.attention_logit_softcap)
        positions = torch.arange(end, device=x.device)
        unseen = positions[None, :] > positions[start:, None]  # [s, t]
        if has_sliding_window(self.model, number):
            assert self.model.sliding_window is not None, "a layer has a window where the model has one"
            unseen = unseen | (positions[None, :] <= positions[start:, None] - self.model.sliding_window)
        probabilities = scores.masked_fill(unseen, float("-inf")).softmax(dim=-1).to(values.dtype)
        context = torch.einsum("bgrst,btgd->bsgrd", probabilities, values)
        return context.reshape(batch, length, -1) @ layer[ATTENTION_OUTPUT].T


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate channel i of each head with channel i + c/2, as in kernels/reference.py, at any positions; the channels from c on
    stay. x [b, s, g, r, d]."""
    turned = 2 * cos.shape[-1]
    first, second = x[..., :turned].float().chunk(2, dim=-1)
    both = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
    return torch.cat([both, x[..., turned:]], dim=-1)
