"""The decoder layer, where our kernels are plugged into megatron-core.

Shapes: s sequence, b micro batch, h hidden, n query heads, g query groups, d head size; /t split by tensor parallelism.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules

from fanal.kernels.attention import causal_attention
from fanal.kernels.rms_norm import rms_norm
from pretrain.config.schema import ModelConfig
from pretrain.model.families import table_of
from pretrain.model.families.table import FEED_FORWARD_NORM, INPUT_NORM, KEY_NORM, QUERY_NORM


class RMSNorm(torch.nn.Module):
    """RMSNorm over the last dimension (Zhang and Sennrich, 2019): [s, b, h] or [s/t, b, h]; of heads [s, b, n/t, d]."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.empty(hidden_size, dtype=config.params_dtype))
        # Under sequence parallelism each tensor-parallel rank sees a part of the sequence, and so a part of this
        # gradient; megatron sums the gradients of the parameters that carry this mark.
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return rms_norm(hidden, self.weight, self.eps)


class CausalSelfAttention(torch.nn.Module):
    """Attention between the projections: [s, b, n/t, d] and [s, b, g/t, d] twice -> [s, b, n/t * d].

    megatron's attention_mask carries MicroBatch.document_starts here, through recomputation and every pipeline stage;
    None means that a row is one document. Rotary angles still count from the start of the row: they enter a score only
    as a difference of two positions, so inside a document the result is the same as counting from the document's start.
    """

    def __init__(
        self, *, backend: str, config: TransformerConfig, softmax_scale: float | None = None, **_: Any
    ) -> None:
        super().__init__()
        self.backend = backend
        self.softmax_scale = softmax_scale

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None, **_: Any
    ) -> torch.Tensor:
        return causal_attention(query, key, value, self.backend, self.softmax_scale, document_starts=attention_mask)


def residual_add(training: bool, fused: bool) -> Callable[..., torch.Tensor]:
    """Return the residual addition: megatron's "bias, dropout, add" without bias and dropout."""

    def add(output_and_bias: tuple[torch.Tensor, None], residual: torch.Tensor, dropout: float) -> torch.Tensor:
        output, bias = output_and_bias
        assert bias is None and dropout == 0.0, "the Llama family has no biases and we train without dropout"
        return residual + output

    return add


def layer_spec(model: ModelConfig, attention_backend: str) -> ModuleSpec:
    """Return the spec of one decoder layer: grouped attention, SwiGLU, and RMSNorm at each place where the family has one."""
    places = {spec.name for spec in table_of(model).layer}

    def norm_at(place: str) -> type[torch.nn.Module]:
        return RMSNorm if place in places else IdentityOp

    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=norm_at(INPUT_NORM),
            self_attention=ModuleSpec(
                module=SelfAttention,
                params={"attn_mask_type": AttnMaskType.causal},
                submodules=SelfAttentionSubmodules(
                    linear_qkv=ColumnParallelLinear,
                    core_attention=partial(CausalSelfAttention, backend=attention_backend),
                    linear_proj=RowParallelLinear,
                    q_layernorm=norm_at(QUERY_NORM),
                    k_layernorm=norm_at(KEY_NORM),
                ),
            ),
            self_attn_bda=residual_add,  # type: ignore[arg-type]
            pre_mlp_layernorm=norm_at(FEED_FORWARD_NORM),
            mlp=ModuleSpec(
                module=MLP, submodules=MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
            ),
            mlp_bda=residual_add,  # type: ignore[arg-type]
        ),
    )


def stage_spec(config: TransformerConfig, model: ModelConfig, attention_backend: str) -> TransformerBlockSubmodules:
    """Return the layers of one model chunk; their number divides evenly, which config/rules.py checks."""
    chunks = config.pipeline_model_parallel_size * (config.virtual_pipeline_model_parallel_size or 1)
    layers = config.num_layers // chunks
    specs = [layer_spec(model, attention_backend)] * layers
    return TransformerBlockSubmodules(layer_specs=specs, layer_norm=RMSNorm)  # type: ignore[arg-type]
