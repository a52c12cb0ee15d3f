"""Build the model of a run: the model chunks (GPTModel) of this pipeline rank, initialized and wrapped for data parallelism.

Shapes: s sequence, b micro batch, v padded vocabulary; /t split by tensor parallelism.
"""

from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.transformer_config import TransformerConfig

from fanal.kernels.attention_choice import Choice, select_attention_backend, situation_here
from fanal.kernels.linear_cross_entropy import linear_cross_entropy
from pretrain.config.derive import (
    groups_of_a_rank,
    kv_channels,
    loss_chunk_tokens,
    num_tokens,
    offloaded_layers,
    padded_vocab_size,
    recomputed_layers,
    tokens_per_pass,
)
from pretrain.config.schema import ModelConfig, ParallelConfig, RunConfig
from pretrain.config.stages import chunk_sizes
from pretrain.model.angles import LayerAngles
from pretrain.model.copies import mark_copies
from pretrain.model.embedding import scaled_embedding
from pretrain.model.families.split import token_rows_of_a_rank
from pretrain.model.families.tensors import tensors_of
from pretrain.model.gradients import finalize_gradients, send_nothing_to_oneself
from pretrain.model.initialize import initialize, named_specs
from pretrain.model.layer_spec import stage_spec
from pretrain.model.linear import hidden_of_all, linear, weight_sum
from pretrain.model.offload import HostBuffers, OffloadedLayers
from pretrain.model.operations import choose_operations
from pretrain.model.translate import PARAMS_DTYPE, DecoderConfig, transformer_config
from pretrain.parallel.world import World


class Decoder(GPTModel):
    """GPTModel whose loss leaves out the columns that stand for no token.

    Megatron lets them take part in the softmax, so a model exported without them is not the model that was trained.
    """

    def __init__(
        self,
        *,
        model: ModelConfig,
        attention: Choice,
        real_vocab_columns: int,
        loss_chunk_tokens: int | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.rotary_pos_emb = LayerAngles(model)
        if self.post_process:
            # megatron makes this layer itself, of its own class.
            self.output_layer._forward_impl = linear if loss_chunk_tokens is None else hidden_of_all
        self.loss_chunk_tokens = loss_chunk_tokens
        self.cross_entropy = self.config.operations.cross_entropy  # type: ignore[attr-defined]
        self.final_logit_softcap = model.final_logit_softcap
        if self.pre_process and model.embedding_scale != "none":
            # A hook, since megatron's embedding has no place for a factor; under sequence parallelism it scales this rank's part.
            self.embedding.register_forward_hook(lambda _module, _inputs, output: scaled_embedding(output, model))  # type: ignore[arg-type]
        self.attention = attention
        self.specs = tensors_of(model)
        """The table of the whole model's tensors."""
        self.real_vocab_columns = real_vocab_columns
        """Columns of this rank's part of the logits that stand for a token."""

    def compute_language_model_loss(self, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Compute two figures of each token: its cross entropy, and the logarithm of its softmax's denominator, for the z-loss.

        Args: labels [b, s]; logits [s, b, v/t], or in chunks (train.loss_chunk_tokens) what the output layer is given, [s, b, h].
        Returns: [2, b, s], fp32.
        """
        group: Any = parallel_state.get_tensor_model_parallel_group()
        labels = labels.transpose(0, 1).contiguous()
        columns, cap = self.real_vocab_columns, self.final_logit_softcap
        if self.loss_chunk_tokens is None:
            figures = self.cross_entropy(logits, labels, group, columns=columns, soft_cap=cap)
        else:
            weight, chunk = self.output_weight(), self.loss_chunk_tokens
            options: Any = {"columns": columns, "soft_cap": cap, "passes": self.cross_entropy, "weight_sum": weight_sum}
            figures = linear_cross_entropy(logits, weight, labels, group, chunk=chunk, **options)
        return torch.stack(figures).transpose(1, 2).contiguous()

    def output_weight(self) -> Any:
        """Return the weight of the output layer, [v/t, h], which tied is the embedding's. Of the last stage."""
        tied = self.share_embeddings_and_output_weights
        return self.shared_embedding_or_output_weight() if tied else self.output_layer.weight


def build_model(
    run: RunConfig, world: World, *, tokenizer_vocab_size: int | None = None, initial_values: bool = True
) -> list[DistributedDataParallel]:
    """Build the model chunks of this rank, one per virtual pipeline stage, on the world's device.

    Collective: every rank calls it (tied embeddings synchronise their two copies).
    Args: tokenizer_vocab_size: where a loss is computed, the ids that the tokenizer has; None is all of model.vocab_size.
        initial_values: False leaves the weights as the memory is.
    """
    operations = choose_operations(
        run.model,
        run.kernels,
        compile=run.train.compile,
        device=world.device,
        dtype=PARAMS_DTYPE[run.train.precision],
    )
    config = transformer_config(run, operations)
    attention = _attention(run, world)
    stages = run.parallel.virtual_pipeline_model_parallel_size
    tokens = num_tokens(run.model, tokenizer_vocab_size=tokenizer_vocab_size or run.model.vocab_size)
    chunks = [_chunk(run, world, config, attention, tokens, stage if stages > 1 else None) for stage in range(stages)]
    if run.train.offload_activations:
        _offload(chunks, run, world)
    for chunk in chunks if initial_values else ():
        initialize(
            chunk, chunk.specs, seed=run.train.seed, tp_rank=world.tp_rank, num_ranks=world.tensor_model_parallel_size
        )
    parameters = (one for chunk in chunks for one in named_specs(chunk, chunk.specs))
    mark_copies(parameters, chunks[0].specs.values(), world, timeout_s=run.parallel.timeout_s)
    replicas = _wrap(chunks, config, run.parallel)
    config.finalize_model_grads_func = finalize_gradients
    return replicas


def attention_choice(model: list[DistributedDataParallel]) -> Choice:
    """Return the attention backend that every layer of these model chunks runs, and why others were passed over, for the log."""
    return unwrap(model)[0].attention


def unwrap(model: list[DistributedDataParallel]) -> list[Decoder]:
    """Return the bare model chunks inside their data-parallel wrappers."""
    return [wrapped.module for wrapped in model]  # type: ignore[misc]


def _attention(run: RunConfig, world: World) -> Choice:
    """Choose this rank's attention backend, with a trial on its GPU."""
    model, ranks = run.model, world.tensor_model_parallel_size
    situation = situation_here(
        device=world.device,
        dtype=PARAMS_DTYPE[run.train.precision],
        head_size=kv_channels(model),
        num_heads=model.num_attention_heads // ranks,
        num_groups=groups_of_a_rank(model.num_query_groups, tensor_model_parallel_size=ranks),
        documents=run.data.document_mask,
        window=model.sliding_window,
        soft_cap=model.attention_logit_softcap,
        fewer_queries=world.context_parallel_size > 1,
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )
    return select_attention_backend(model.attention_backend, situation, world.device)


def _chunk(
    run: RunConfig, world: World, config: DecoderConfig, attention: Choice, tokens: int, stage: int | None
) -> Decoder:
    ranks = world.tensor_model_parallel_size
    columns = token_rows_of_a_rank(padded_vocab_size(run.model), ranks)
    num_layers = chunk_sizes(run.model, run.parallel)[_chunk_number(world, stage or 0)]
    return Decoder(
        config=config,
        transformer_layer_spec=stage_spec(config, attention.name, num_layers=num_layers),
        # What megatron can divide: rows past the end of the model's vocabulary are in no tensor (families/split.py).
        vocab_size=columns * ranks,
        max_sequence_length=run.data.seq_length,
        pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=stage is None, vp_stage=stage),
        post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=stage is None, vp_stage=stage),
        parallel_output=True,
        share_embeddings_and_output_weights=run.model.share_embeddings_and_output_weights,
        position_embedding_type="rope",
        vp_stage=stage,
        model=run.model,
        loss_chunk_tokens=loss_chunk_tokens(run.train, tokens=tokens_per_pass(run)),
        attention=attention,
        real_vocab_columns=min(columns, max(0, tokens - world.tp_rank * columns)),
    ).to(world.device)


def _chunk_number(world: World, stage: int) -> int:
    """Return the number of a model chunk of this rank, in the order of the model."""
    return stage * world.pipeline_model_parallel_size + world.pp_rank


def _offload(chunks: list[Decoder], run: RunConfig, world: World) -> None:
    """Have the layers of all chunks keep their inputs on the host, in the same buffers."""
    buffers, sizes = HostBuffers(world.device), chunk_sizes(run.model, run.parallel)
    for stage, decoder in enumerate(chunks):
        chunk = _chunk_number(world, stage)
        decoder.decoder._checkpointed_forward = OffloadedLayers(  # type: ignore[method-assign,assignment]
            decoder.decoder.layers,
            recomputed=recomputed_layers(run.train, num_layers=sizes[chunk]),
            offloaded=offloaded_layers(run.train, chunk=chunk, sizes=sizes),
            buffers=buffers,
        )


def _wrap(chunks: list[Decoder], config: TransformerConfig, parallel: ParallelConfig) -> list[DistributedDataParallel]:
    alone = parallel_state.get_data_parallel_world_size(with_context_parallel=True) == 1
    ddp_config = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        overlap_grad_reduce=parallel.overlap_grad_reduce and not alone,
        overlap_param_gather=parallel.overlap_param_gather and not alone,
        use_distributed_optimizer=parallel.use_distributed_optimizer,
    )
    wrapped = [
        # Only the first model chunk is cut into buckets, as in Megatron: the others' reductions hide behind its backward.
        DistributedDataParallel(config, ddp_config, chunk, disable_bucketing=index > 0)
        for index, chunk in enumerate(chunks)
    ]
    if alone:
        for chunk in wrapped:
            send_nothing_to_oneself(chunk)
    elif parallel.overlap_grad_reduce:
        no_sync = [chunk.no_sync for chunk in wrapped]
        config.no_sync_func = no_sync[0] if len(wrapped) == 1 else no_sync  # type: ignore[assignment]
    return wrapped
