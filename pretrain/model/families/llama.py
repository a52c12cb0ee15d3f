"""Llama: grouped attention with rotary positions and a SwiGLU feed-forward, RMSNorm before each, no biases.

Source: Touvron et al., Llama, 2023 (arXiv:2302.13971) and Llama 2, 2023 (arXiv:2307.09288); scaled rotary positions: Grattafiori et
al., Llama 3, 2024 (arXiv:2407.21783).
"""

import dataclasses
from collections.abc import Collection
from typing import Any

from fanal.shown import in_yaml
from pretrain.config.derive import kv_channels, next_multiple
from pretrain.config.schema import ModelConfig
from pretrain.model.families.family import HF_EMBEDDING, HF_OUTPUT, Family
from pretrain.model.families.hf_fields import HfFields
from pretrain.model.families.rotary import ROPE_THETA, ROTARY_FIELDS, read_rotary, write_rotary
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
    OUTPUT,
    QUERY,
    QUERY_KEY_VALUE,
    UP,
    VALUE,
)
from pretrain.model.families.window import refuse_window

SILU = ("silu", "swish")
"""Values of hidden_act for SwiGLU."""
NAMES = {
    EMBEDDING: HF_EMBEDDING,
    INPUT_NORM: "input_layernorm.weight",
    f"{QUERY_KEY_VALUE}/{QUERY}": "self_attn.q_proj.weight",
    f"{QUERY_KEY_VALUE}/{KEY}": "self_attn.k_proj.weight",
    f"{QUERY_KEY_VALUE}/{VALUE}": "self_attn.v_proj.weight",
    ATTENTION_OUTPUT: "self_attn.o_proj.weight",
    FEED_FORWARD_NORM: "post_attention_layernorm.weight",
    f"{FEED_FORWARD_INPUT}/{GATE}": "mlp.gate_proj.weight",
    f"{FEED_FORWARD_INPUT}/{UP}": "mlp.up_proj.weight",
    DOWN: "mlp.down_proj.weight",
    FINAL_NORM: "model.norm.weight",
    OUTPUT: HF_OUTPUT,
}
"""Names of a Llama model's tensors; most classes have these, and a few of their own."""


def write_config(model: ModelConfig) -> dict[str, Any]:
    """Return the part of a model's config.json that states its arithmetic."""
    return {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": kv_channels(model),
        "hidden_act": "silu",
        "hidden_size": model.hidden_size,
        "initializer_range": model.init_method_std,
        "intermediate_size": model.ffn_hidden_size,
        "mlp_bias": False,
        "num_attention_heads": model.num_attention_heads,
        "num_hidden_layers": model.num_layers,
        "num_key_value_heads": model.num_query_groups,
        "rms_norm_eps": model.layernorm_epsilon,
        **write_rotary(model),
        "tie_word_embeddings": model.share_embeddings_and_output_weights,
    }


def read_config(fields: HfFields) -> ModelConfig:
    """Read the model of a config.json. Raises: UnsupportedModelError."""
    refuse_window(fields, fields.get("sliding_window"))
    heads = fields.get("num_attention_heads")  # Llama 1 had no groups
    return read_llama_like(fields, default_groups=heads)


def read_llama_like(
    fields: HfFields,
    *,
    default_groups: int | None,
    default_head_size: int | None = None,
    default_tied: bool = False,
    default_rotary_base: float = ROPE_THETA,
    epsilon_key: str = "rms_norm_eps",
    default_epsilon: float | None = None,
    default_std: float = 0.02,
    activation_key: str = "hidden_act",
    activations: Collection[str] = SILU,
    **read: Any,
) -> ModelConfig:
    """Read the model of a config.json, with what its family takes for a key that is not stated.

    Args:
        default_head_size: None is hidden_size / num_attention_heads.
        activations: values of activation_key that the family computes, the first its default.
        read: further fields of ModelConfig, among them those of the rotary positions where ``read_rotary`` does not read them.
    Raises: UnsupportedModelError.
    """
    for name, works in (("attention_bias", (False,)), ("mlp_bias", (False,)), (activation_key, tuple(activations))):
        value = fields.get(name, works[0])
        if not any(type(value) is type(one) and value == one for one in works):
            spelled = repr(works[0]) if isinstance(works[0], str) else in_yaml(works[0])
            raise fields.refuse(name, value, f"is not supported; {spelled} works")
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    groups = fields.size("num_key_value_heads", default_groups)
    if heads % groups:
        raise fields.refuse("num_attention_heads", heads, f"must be a multiple of num_key_value_heads ({groups})")
    head_size = fields.get("head_dim", default_head_size)
    if head_size is None and hidden % heads:
        raise fields.refuse(
            "hidden_size", hidden, f"must be a multiple of num_attention_heads ({heads}) where head_dim is not stated"
        )
    head_size = fields.size("head_dim", default_head_size or hidden // heads)
    if head_size % 2:
        raise fields.refuse("head_dim", head_size, "must be even: rotary positions turn pairs of channels")
    tied = fields.get("tie_word_embeddings", default_tied)
    if not isinstance(tied, bool):
        raise fields.refuse("tie_word_embeddings", tied, "must be true or false")
    if "rotary_base" not in read:
        read |= read_rotary(fields, default_base=default_rotary_base)
    return ModelConfig(
        num_layers=fields.size("num_hidden_layers"),
        hidden_size=hidden,
        ffn_hidden_size=fields.size("intermediate_size"),
        num_attention_heads=heads,
        num_query_groups=groups,
        # our configs use null where the head size follows from the other fields
        kv_channels=None if head_size * heads == hidden else head_size,
        vocab_size=fields.size("vocab_size"),
        share_embeddings_and_output_weights=tied,
        layernorm_epsilon=fields.number(epsilon_key, fields.get(epsilon_key, default_epsilon)),
        init_method_std=fields.number("initializer_range", fields.get("initializer_range", default_std)),
        **read,
    )


def misfit(model: ModelConfig) -> str | None:
    """Return why the class cannot compute a model of these fields; None if it can."""
    if model.hidden_size % model.num_attention_heads:
        multiple = next_multiple(model.hidden_size, model.num_attention_heads)
        return f"model.hidden_size ({model.hidden_size}; there a multiple of the heads, such as {multiple})"
    return None


LLAMA_LIKE = Family(
    title="Llama",
    architecture="LlamaForCausalLM",
    model_type="llama",
    fields=ROTARY_FIELDS,
    names=NAMES,
    write_config=write_config,
    read_config=read_config,
)
"""What most families are made from; the rule of Llama's class alone is not in it."""
LLAMA = dataclasses.replace(LLAMA_LIKE, misfit=misfit)
