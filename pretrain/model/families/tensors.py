"""Every tensor of a model: which ones it has, their shapes, how they are split and what they begin with. Pure arithmetic; no torch.

They follow from the model's fields alone. Ours are Megatron's: linear_qkv holds, query group by query group, the group's query
heads, its key head and its value head; linear_fc1 holds the gate and then what it multiplies. Rotary positions turn the two
halves of what they turn of a head, as in Hugging Face's models, so no row changes its place within a head.
"""

import math
from collections.abc import Iterator
from typing import Any

from pretrain.config.derive import has_gate, kv_channels, padded_vocab_size
from pretrain.config.schema import ModelConfig
from pretrain.model.families.table import (
    ATTENTION_OUTPUT,
    DOWN,
    EMBEDDING,
    FEED_FORWARD_INPUT,
    FEED_FORWARD_NORM,
    FINAL_NORM,
    GATE,
    INPUT_NORM,
    KEY,
    KEY_NORM,
    OUTPUT,
    POST_ATTENTION_NORM,
    POST_FEED_FORWARD_NORM,
    QUERY,
    QUERY_KEY_VALUE,
    QUERY_KEY_VALUE_BIAS,
    QUERY_NORM,
    UP,
    VALUE,
    XIELU_ALPHA_N,
    XIELU_ALPHA_P,
    Part,
    Table,
    TensorSpec,
)

XIELU_BETA = 0.5
"""Slope of xIELU at 0, which is not learned (Huang and Schlag, 2024, arXiv:2411.13010)."""
XIELU_ALPHA = 0.8
"""Curvature of xIELU at the start, on both sides of 0."""


def table_of(model: ModelConfig) -> Table:
    """Return the table of a model's tensors."""
    last = [*_norm(model, FINAL_NORM)]
    if not model.share_embeddings_and_output_weights:
        last.append(_vocabulary(model, OUTPUT))
    layer = (*_attention(model), *_feed_forward(model), *_norms_of_layer(model), *_norms_of_heads(model))
    return Table(first=(_vocabulary(model, EMBEDDING),), layer=layer, last=tuple(last), num_layers=model.num_layers)


def tensors_of(model: ModelConfig) -> dict[str, TensorSpec]:
    """Return every tensor of a model by its name in the trainer and in checkpoints, layers counted from 0."""
    return table_of(model).whole()


def _vocabulary(model: ModelConfig, name: str) -> TensorSpec:
    """Return the spec of a tensor with a row for each token, and padding rows."""
    padded = padded_vocab_size(model)
    return TensorSpec(
        name=name,
        shape=(padded, model.hidden_size),
        split_dim=0,
        init_std=model.init_method_std,
        padding_rows=padded - model.vocab_size,
        has_token_rows=True,
        parts=(Part(rows=(range(model.vocab_size),)),),
    )


def _attention(model: ModelConfig) -> Iterator[TensorSpec]:
    hidden, parts = model.hidden_size, _query_key_value(model)
    mixed = sum(len(rows) for part in parts for rows in part.rows)
    split: dict[str, Any] = {"split_dim": 0, "copied_parts": (KEY, VALUE), "parts": parts}
    yield TensorSpec(name=QUERY_KEY_VALUE, shape=(mixed, hidden), init_std=model.init_method_std, **split)
    if model.add_qkv_bias:
        yield TensorSpec(name=QUERY_KEY_VALUE_BIAS, shape=(mixed,), init_value=0.0, **split)
    yield TensorSpec(
        name=ATTENTION_OUTPUT,
        shape=(hidden, model.num_attention_heads * kv_channels(model)),
        split_dim=1,
        init_std=_residual_std(model),
        parts=_whole(hidden),
    )


def _query_key_value(model: ModelConfig) -> tuple[Part, ...]:
    head, groups = kv_channels(model), model.num_query_groups
    queries = model.num_attention_heads // groups * head  # rows of a group's queries; its key and its value follow
    starts = [group * (queries + 2 * head) for group in range(groups)]
    return tuple(
        Part(name=name, rows=tuple(range(start + first, start + first + length) for start in starts))
        for name, first, length in ((QUERY, 0, queries), (KEY, queries, head), (VALUE, queries + head, head))
    )


def _feed_forward(model: ModelConfig) -> Iterator[TensorSpec]:
    hidden, ffn, std = model.hidden_size, model.ffn_hidden_size, model.init_method_std
    if has_gate(model):
        yield TensorSpec(
            name=FEED_FORWARD_INPUT,
            shape=(2 * ffn, hidden),
            split_dim=0,
            sections=(GATE, UP),
            init_std=std,
            parts=(Part(name=GATE, rows=(range(ffn),)), Part(name=UP, rows=(range(ffn, 2 * ffn),))),
        )
    else:
        up = (Part(name=UP, rows=(range(ffn),)),)
        yield TensorSpec(name=FEED_FORWARD_INPUT, shape=(ffn, hidden), split_dim=0, init_std=std, parts=up)
    yield TensorSpec(name=DOWN, shape=(hidden, ffn), split_dim=1, init_std=_residual_std(model), parts=_whole(hidden))
    if model.activation == "xielu":
        # Both are positive: what is learned is the inverse of their softplus (and above beta, on the negative side).
        for name, alpha in ((XIELU_ALPHA_P, XIELU_ALPHA), (XIELU_ALPHA_N, XIELU_ALPHA - XIELU_BETA)):
            yield TensorSpec(name=name, shape=(1,), init_value=math.log(math.expm1(alpha)), parts=_whole(1))


def _norms_of_layer(model: ModelConfig) -> Iterator[TensorSpec]:
    if model.norm_placement in ("before", "both"):
        yield from (*_norm(model, INPUT_NORM), *_norm(model, FEED_FORWARD_NORM))
    if model.norm_placement in ("after", "both"):
        yield from (*_norm(model, POST_ATTENTION_NORM), *_norm(model, POST_FEED_FORWARD_NORM))


def _norm(model: ModelConfig, name: str) -> Iterator[TensorSpec]:
    """Yield the weight of a norm of the residual stream, and its bias."""
    size = model.hidden_size
    yield TensorSpec(name=name, shape=(size,), init_value=_first_gamma(model), parts=_whole(size))
    if model.normalization == "LayerNorm":
        yield TensorSpec(name=bias_of(name), shape=(size,), init_value=0.0, parts=_whole(size))


def _norms_of_heads(model: ModelConfig) -> Iterator[TensorSpec]:
    if not model.qk_layernorm:
        return
    is_full = model.qk_layernorm_scope == "full"
    for name, heads in ((QUERY_NORM, model.num_attention_heads), (KEY_NORM, model.num_query_groups)):
        size = kv_channels(model) * (heads if is_full else 1)
        yield TensorSpec(name=name, shape=(size,), init_value=_first_gamma(model), parts=_whole(size))


def bias_of(name: str) -> str:
    """Return the name of the bias beside a weight."""
    return name.removesuffix("weight") + "bias"


def _first_gamma(model: ModelConfig) -> float:
    return 0.0 if model.layernorm_zero_centered_gamma else 1.0


def _residual_std(model: ModelConfig) -> float:
    """Return the standard deviation of what is added to the residual stream (Shoeybi et al., 2019, arXiv:1909.08053)."""
    return model.init_method_std / math.sqrt(2 * model.num_layers)


def _whole(rows: int) -> tuple[Part, ...]:
    return (Part(rows=(range(rows),)),)
