"""Translate our configuration to megatron-core's TransformerConfig."""

from dataclasses import dataclass, field
from typing import Any

import torch
from megatron.core.transformer.transformer_config import TransformerConfig

from pretrain.config.derive import groups_of_a_rank, has_gate, kv_channels, recomputed_modules
from pretrain.config.schema import ModelConfig, RunConfig, TrainConfig
from pretrain.config.stages import chunk_sizes
from pretrain.model.operations import Operations, plain_operations
from pretrain.parallel.device_type import resolve_device

PARAMS_DTYPE = {"bf16": torch.bfloat16, "fp32": torch.float32}
"""Type of weights and activations by train.precision."""


@dataclass
class DecoderConfig(TransformerConfig):
    """megatron-core's configuration, and ours for the modules that we put into its layers."""

    model: ModelConfig | None = None
    operations: Operations = field(default_factory=Operations)
    recomputed: frozenset[str] = frozenset()
    """Parts of a layer that are computed again in the backward pass, as of derive.recomputed_modules."""


def transformer_config(run: RunConfig, operations: Operations | None = None) -> DecoderConfig:
    """Return the megatron-core configuration of this run's model on this run's layout.

    Fusions that need Apex, Transformer Engine or a compiler are off: kernels enter through layer_spec.py.
    Args: operations: what its layers run; torch's own if None.
    """
    operations = operations or plain_operations(run.model)
    model, parallel = run.model, run.parallel
    tensor, virtual = parallel.tensor_model_parallel_size, parallel.virtual_pipeline_model_parallel_size
    dtype = PARAMS_DTYPE[run.train.precision]
    return DecoderConfig(
        model=model,
        operations=operations,
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.ffn_hidden_size,
        num_attention_heads=model.num_attention_heads,
        # As many as ranks at least: a rank has one key head and one value head for its queries, which may be copies.
        num_query_groups=tensor * groups_of_a_rank(model.num_query_groups, tensor_model_parallel_size=tensor),
        kv_channels=kv_channels(model),
        normalization=model.normalization,
        layernorm_epsilon=model.layernorm_epsilon,
        layernorm_zero_centered_gamma=model.layernorm_zero_centered_gamma,
        # Norms of queries and keys see the heads of their own rank: megatron sums their gradients over tensor-parallel ranks.
        qk_layernorm=model.qk_layernorm,
        gated_linear_unit=has_gate(model),
        activation_func=operations.activation,
        add_bias_linear=False,
        add_qkv_bias=model.add_qkv_bias,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        init_method_std=model.init_method_std,
        # Values come from initialize.py. megatron must still run its initialization, which marks the weights that are split.
        perform_initialization=True,
        init_method=leave_as_is,
        output_layer_init_method=leave_as_is,
        embedding_init_method=leave_as_is,
        tensor_model_parallel_size=tensor,
        pipeline_model_parallel_size=parallel.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=virtual if virtual > 1 else None,
        context_parallel_size=parallel.context_parallel_size,
        pipeline_model_parallel_layout=_pipeline_layout(run),
        sequence_parallel=parallel.sequence_parallel,
        # Of the embedding's backward, and without Transformer Engine of nothing else; a CPU's adds up in one order as it is.
        deterministic_mode=run.train.deterministic and resolve_device(run.parallel.device) == "cuda",
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype is torch.bfloat16,
        # Interleaved stages between two ranks: batched point-to-point silently swaps activations and gradients.
        overlap_p2p_comm=virtual > 1,
        batch_p2p_comm=virtual == 1,
        # The wait for the whole device after each message guarded against a race in torch that was mended in 2022 (pytorch#82450).
        batch_p2p_sync=False,
        # A stage's output is needed only as its neighbour's input, so its memory is freed once it is sent. The interleaved
        # schedule frees it while the send may still read it: on gloo that corrupts activations (docs/log.md).
        deallocate_pipeline_outputs=virtual == 1,
        # Gradients are divided by the tokens of the whole batch, so that every token has the same weight under uneven masks.
        calculate_per_token_loss=True,
        gradient_accumulation_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        persist_layer_norm=False,
        apply_rope_fusion=False,
        **_recompute(run.train),
    )


def leave_as_is(weight: torch.Tensor) -> torch.Tensor:
    """Return a weight unchanged, as an init method."""
    return weight


def _pipeline_layout(run: RunConfig) -> list[list[str]] | None:
    """Return what every model chunk holds, in the order of the model: megatron numbers the layers of a chunk by it."""
    if run.parallel.pipeline_model_parallel_size == 1:
        return None
    layout = [["decoder"] * size for size in chunk_sizes(run.model, run.parallel)]
    return [["embedding", *layout[0]], *layout[1:-1], [*layout[-1], "loss"]]


def _recompute(train: TrainConfig) -> dict[str, Any]:
    """megatron recomputes whole layers and whole feed-forwards by itself; layer_spec.py and norms.py the other parts."""
    if train.recompute == "full":
        layers = train.recompute_num_layers
        method = (
            ("uniform", 1) if layers is None else ("block", layers)
        )  # block: the first so many layers of a model chunk
        return {"recompute_granularity": "full", "recompute_method": method[0], "recompute_num_layers": method[1]}
    if train.recompute == "selective":
        parts = recomputed_modules(train)
        known = sorted(parts & {"mlp"})
        return {"recompute_granularity": "selective", "recompute_modules": known, "recomputed": parts}
    return {}
