"""The decoder layer, where our kernels are plugged into megatron-core.

Shapes: s sequence, b micro batch, h hidden, n query heads, g query groups, d head size; /t split by tensor parallelism.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules

from fanal.kernels.attention import causal_attention
from fanal.kernels.rotary import rotary
from pretrain.config.derive import has_rotary_positions, has_sliding_window, kv_channels
from pretrain.config.schema import ModelConfig
from pretrain.model.activation import XIELU
from pretrain.model.context_parallel import ContextParallelAttention
from pretrain.model.families.table import (
    FEED_FORWARD_NORM,
    INPUT_NORM,
    KEY_NORM,
    POST_ATTENTION_NORM,
    POST_FEED_FORWARD_NORM,
    QUERY_NORM,
)
from pretrain.model.families.tensors import table_of
from pretrain.model.linear import ColumnParallelLinear, RowParallelLinear
from pretrain.model.norms import HeadNorm, KeysNorm, LayerNorm, QueriesNorm, RMSNorm
from pretrain.model.recompute import without_output
from pretrain.model.rotary import attention_factor, kind_of
from pretrain.model.translate import DecoderConfig


class CausalSelfAttention(torch.nn.Module):
    """Attention between the projections: [q, b, n/t, d] and [s, b, g/t, d] twice -> [q, b, n/t * d].

    Queries are those of the last q positions, all of them but under context parallelism (context_parallel.py).
    megatron's attention_mask carries MicroBatch.document_starts here, through recomputation and every pipeline stage;
    None means that a row is one document. Rotary angles still count from the start of the row: they enter a score only
    as a difference of two positions, so inside a document the result is the same as counting from the document's start.
    """

    def __init__(self, *, backend: str, config: DecoderConfig, layer_number: int, **_: Any) -> None:
        super().__init__()
        model, layer = _model(config), layer_number - 1
        self.backend = backend
        self.softmax_scale = softmax_scale(config, layer)
        self.window = model.sliding_window if has_sliding_window(model, layer) else None
        self.soft_cap = model.attention_logit_softcap

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None, **_: Any
    ) -> torch.Tensor:
        return causal_attention(
            query,
            key,
            value,
            self.backend,
            self.softmax_scale,
            document_starts=attention_mask,
            window=self.window,
            soft_cap=self.soft_cap,
        )


def core_attention(*, config: DecoderConfig, backend: str, **options: Any) -> torch.nn.Module:
    """Return what a layer has between its projections: attention of this rank's positions."""
    attention = CausalSelfAttention(config=config, backend=backend, **options)
    return ContextParallelAttention(attention) if config.context_parallel_size > 1 else attention


class LayerAttention(SelfAttention):
    """megatron's attention with one operation between projection and scores, and perhaps a norm behind it.

    Its forward is the part of megatron's that trains: no inference, no packed sequences of megatron's own.
    """

    def __init__(self, config: DecoderConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        model, layer = _model(config), self.layer_number - 1
        self.rotary_qkv = config.operations.rotary
        self.recomputes_core = "core_attn" in config.recomputed
        self.turns, self.kind = has_rotary_positions(model, layer), kind_of(model, layer)
        self.heads_per_group = self.num_attention_heads_per_partition // self.num_query_groups_per_partition
        self.post_layernorm = _norm_at(config, POST_ATTENTION_NORM)

    def forward(  # type: ignore[override]
        self, hidden: torch.Tensor, attention_mask: torch.Tensor | None, *, rotary_pos_emb: torch.Tensor, **_: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Args: hidden [s, b, h] or, under sequence parallelism, [s/t, b, h]; rotary_pos_emb as of LayerAngles."""
        project: Any = self.linear_qkv
        core: Any = self.core_attention
        mixed, _bias = project(hidden)
        query, key, value = self._split(mixed, rotary_pos_emb[self.kind])
        if _can_forget(self, self.recomputes_core):
            context, forget = without_output(core, query, key, value, attention_mask)
        else:
            context, forget = core(query, key, value, attention_mask), None
        output, bias = self.linear_proj(context)
        if forget is not None:
            forget(output)
        return self.post_layernorm(output), bias

    def _split(self, mixed: torch.Tensor, table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Split [s, b, (n + 2 g)/t * d] into query [s, b, n/t, d], key and value [s, b, g/t, d], normed and turned."""
        grouped = mixed.unflatten(-1, (self.num_query_groups_per_partition, -1))
        norms: Any = (self.q_layernorm, self.k_layernorm)
        has_norms = not all(isinstance(norm, IdentityOp) for norm in norms)
        if self.turns and not has_norms:
            return self.rotary_qkv(grouped, table, self.heads_per_group)
        size = self.hidden_size_per_attention_head
        query, key, value = grouped.split([self.heads_per_group * size, size, size], dim=-1)
        query, key = norms[0](query.unflatten(-1, (-1, size)).flatten(2, 3)), norms[1](key)
        return (rotary(query, table), rotary(key, table), value) if self.turns else (query, key, value)


class FeedForward(MLP):
    """megatron's feed-forward with an activation of ours, which may learn, and a norm behind it or none."""

    def __init__(self, config: DecoderConfig, **kwargs: Any) -> None:
        projections = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
        super().__init__(config, projections, ffn_hidden_size=config.ffn_hidden_size, **kwargs)
        if _model(config).activation == "xielu":
            self.activation_func = XIELU(config)
        self.recomputes_activation = "activation" in config.recomputed
        self.post_layernorm = _norm_at(config, POST_FEED_FORWARD_NORM)

    def forward(self, hidden: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Args: hidden [s, b, h] or, under sequence parallelism, [s/t, b, h]."""
        wide, _bias = self.linear_fc1(hidden)
        if _can_forget(self, self.recomputes_activation):
            active, forget = without_output(self.activation_func, wide)
        else:
            active, forget = self.activation_func(wide), None
        output, bias = self.linear_fc2(active)
        if forget is not None:
            forget(output)
        return self.post_layernorm(output), bias


class DecoderLayer(TransformerLayer):
    """megatron's layer, which may forget what its norms give once attention and feed-forward have it."""

    def __init__(self, config: DecoderConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.recomputes_norms = "layernorm" in config.recomputed
        self.forget_normed: Any = None
        """What forgets the feed-forward's input, between the norm and the end of the feed-forward."""

    def _forward_attention(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, Any]:
        """Args and result: hidden states [s, b, h] or, under sequence parallelism, [s/t, b, h], and no context."""
        if not _can_forget(self, self.recomputes_norms, self.input_layernorm):
            return super()._forward_attention(hidden_states, attention_mask, **kwargs)
        normed, forget = without_output(self.input_layernorm, hidden_states)
        output = self.self_attention(normed, attention_mask, rotary_pos_emb=kwargs["rotary_pos_emb"])
        forget(output[0])
        return residual_add(self.training, False)(output, hidden_states, 0.0), None

    def _forward_pre_mlp_layernorm(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if not _can_forget(self, self.recomputes_norms, self.pre_mlp_layernorm):
            return super()._forward_pre_mlp_layernorm(hidden_states)
        normed, self.forget_normed = without_output(self.pre_mlp_layernorm, hidden_states)
        return normed

    def _forward_post_mlp(self, mlp_output_with_bias: tuple[torch.Tensor, None], residual: torch.Tensor) -> Any:
        if _can_forget(self, self.recomputes_norms, self.pre_mlp_layernorm):
            forget, self.forget_normed = self.forget_normed, None
            forget(mlp_output_with_bias[0])
        return super()._forward_post_mlp(mlp_output_with_bias, residual)


def residual_add(training: bool, fused: bool) -> Callable[..., torch.Tensor]:
    """Return the residual addition: megatron's "bias, dropout, add" without bias and dropout."""

    def add(output_and_bias: tuple[torch.Tensor, None], residual: torch.Tensor, dropout: float) -> torch.Tensor:
        output, bias = output_and_bias
        assert bias is None and dropout == 0.0, "projections out of a sub-layer have no biases, and there is no dropout"
        return residual + output

    return add


def softmax_scale(config: DecoderConfig, layer: int) -> float:
    """Return what a layer's scores are multiplied by. YaRN's factor of queries and of keys is in it, once for each."""
    model = _model(config)
    scalar = model.query_pre_attention_scalar or kv_channels(model)
    return scalar**-0.5 * attention_factor(model, layer) ** 2


def layer_spec(config: DecoderConfig, attention_backend: str) -> ModuleSpec:
    """Return the spec of one decoder layer, with a norm at each place where the model has one."""
    model = _model(config)
    places = _places(config)
    per_head = model.qk_layernorm_scope == "head"

    def at(place: str, module: type[torch.nn.Module]) -> type[torch.nn.Module]:
        return module if place in places else IdentityOp

    return ModuleSpec(
        module=DecoderLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=at(INPUT_NORM, norm_of(config)),
            self_attention=ModuleSpec(
                module=LayerAttention,
                params={"attn_mask_type": AttnMaskType.causal},
                submodules=SelfAttentionSubmodules(
                    linear_qkv=ColumnParallelLinear,
                    core_attention=partial(core_attention, backend=attention_backend),  # type: ignore[arg-type]
                    linear_proj=RowParallelLinear,
                    q_layernorm=at(QUERY_NORM, HeadNorm if per_head else QueriesNorm),
                    k_layernorm=at(KEY_NORM, HeadNorm if per_head else KeysNorm),
                ),
            ),
            self_attn_bda=residual_add,  # type: ignore[arg-type]
            pre_mlp_layernorm=at(FEED_FORWARD_NORM, norm_of(config)),
            mlp=FeedForward,
            mlp_bda=residual_add,  # type: ignore[arg-type]
        ),
    )


def stage_spec(config: DecoderConfig, attention_backend: str, *, num_layers: int) -> TransformerBlockSubmodules:
    """Return the layers of one model chunk. megatron numbers them, by the layout of the pipeline in its configuration."""
    specs = [layer_spec(config, attention_backend)] * num_layers
    return TransformerBlockSubmodules(layer_specs=specs, layer_norm=norm_of(config))  # type: ignore[arg-type]


def norm_of(config: DecoderConfig) -> type[torch.nn.Module]:
    """Return the norm of the residual stream."""
    return LayerNorm if _model(config).normalization == "LayerNorm" else RMSNorm


def _norm_at(config: DecoderConfig, place: str) -> torch.nn.Module:
    if place not in _places(config):
        return IdentityOp()
    return norm_of(config)(config, config.hidden_size, config.layernorm_epsilon)


def _can_forget(layer: torch.nn.Module, asked: bool, part: object = None) -> bool:
    """Whether a part of a layer is there, and what it gives is made again in a backward that comes."""
    return asked and layer.training and torch.is_grad_enabled() and not isinstance(part, IdentityOp)


def _places(config: DecoderConfig) -> set[str]:
    """Return the places in a layer where the model has a tensor."""
    return {spec.name for spec in table_of(_model(config)).layer}


def _model(config: DecoderConfig) -> ModelConfig:
    assert config.model is not None, "translate.py states the model"
    return config.model
