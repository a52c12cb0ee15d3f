"""Sizes of one rank that memory and work follow from: tokens, widths, parameters, by pipeline stage. Pure integers.

All are of one rank, split by tensor parallelism; tokens are those of a micro batch.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

from pretrain.config.derive import (
    data_parallel_size,
    groups_of_a_rank,
    has_gate,
    kv_channels,
    num_microbatches,
    padded_vocab_size,
    tokens_per_pass,
)
from pretrain.config.schema import ModelConfig, RunConfig
from pretrain.config.stages import chunk_sizes
from pretrain.config.steps import last_batch_size
from pretrain.model.families.split import local_shape, token_rows_of_a_rank
from pretrain.model.families.tensors import table_of

ITEM_BYTES = {"bf16": 2, "fp32": 4}
"""Of weights and activations, by train.precision."""
FP32 = 4


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """One layout of a run, as any of its ranks sees it."""

    tensor: int
    pipeline: int
    virtual: int
    context: int
    data: int
    """Replicas."""
    item: int
    """Bytes of a weight or an activation."""
    tokens: int
    attended: int
    """Tokens of a sample that see one another: the sample, or a document where masks keep documents apart."""
    split_tokens: int
    """Tokens of norms and residuals: a part of T under sequence parallelism."""
    hidden: int
    ffn: int
    wide: int
    """Outputs of the first projection of the feed-forward: 2 f with a gate, else f."""
    heads: int
    groups: int
    head_size: int
    vocabulary: int
    num_norms: int
    """Norms of a layer."""
    layer_parameters: int
    layer_weights: int
    """Of matrices alone."""
    feed_forward_weights: int
    micro_batches: int
    """Of a step."""
    chunks: tuple[int, ...]
    """Layers of every model chunk, in the order of the model."""

    @property
    def hidden_bytes(self) -> int:
        """Bytes of the residual stream of a micro batch, as a rank holds it between layers."""
        return self.split_tokens * self.hidden * self.item

    @property
    def whole_hidden_bytes(self) -> int:
        """The same of all tokens, as products take it."""
        return self.tokens * self.hidden * self.item

    @property
    def shards(self) -> int:
        """Ranks that hold the same weights."""
        return self.data * self.context

    @property
    def vocabulary_weights(self) -> int:
        """Weights of the embedding, or of the output layer."""
        return self.vocabulary * self.hidden

    def chunks_of(self, stage: int) -> tuple[int, ...]:
        """Return the numbers of the model chunks of a pipeline rank."""
        return tuple(range(stage, len(self.chunks), self.pipeline))

    def layers_of(self, stage: int) -> int:
        """Return the layers of a pipeline rank."""
        return sum(self.chunks[chunk] for chunk in self.chunks_of(stage))


def shapes_of(run: RunConfig, num_ranks: int, *, document_tokens: int | None = None) -> Shapes:
    """Return the sizes of a run on so many ranks.

    Args: document_tokens: of every document, where data.document_mask keeps them apart; None: as long as a sample.
    Raises: UserError if the ranks or the batch do not fit the layout.
    """
    model, parallel, train = run.model, run.parallel, run.train
    tensor = parallel.tensor_model_parallel_size
    data = data_parallel_size(parallel, num_ranks=num_ranks)
    tokens = tokens_per_pass(run)
    parameters, weights, feed_forward, norms = _layer_sizes(model, tensor)
    return Shapes(
        tensor=tensor,
        pipeline=parallel.pipeline_model_parallel_size,
        virtual=parallel.virtual_pipeline_model_parallel_size,
        context=parallel.context_parallel_size,
        data=data,
        item=ITEM_BYTES[train.precision],
        tokens=tokens,
        attended=attended_tokens(run, document_tokens),
        split_tokens=tokens // tensor if parallel.sequence_parallel else tokens,
        hidden=model.hidden_size,
        ffn=model.ffn_hidden_size // tensor,
        wide=(2 if has_gate(model) else 1) * model.ffn_hidden_size // tensor,
        heads=model.num_attention_heads // tensor,
        groups=groups_of_a_rank(model.num_query_groups, tensor_model_parallel_size=tensor),
        head_size=kv_channels(model),
        vocabulary=token_rows_of_a_rank(padded_vocab_size(model), tensor),
        num_norms=norms,
        layer_parameters=parameters,
        layer_weights=weights,
        feed_forward_weights=feed_forward,
        micro_batches=num_microbatches(
            global_batch_size=last_batch_size(train),
            micro_batch_size=train.micro_batch_size,
            data_parallel_size=data,
        ),
        chunks=tuple(chunk_sizes(model, parallel)),
    )


def attended_tokens(run: RunConfig, document_tokens: int | None) -> int:
    """Return the tokens of a sample that attention is computed over: on a GPU torch's own takes the whole sample and a mask."""
    whole = run.data.seq_length
    apart = run.data.document_mask and run.model.attention_backend != "sdpa"
    return min(whole, document_tokens) if apart and document_tokens is not None else whole


def stage_parameters(model: ModelConfig, shapes: Shapes, stage: int) -> int:
    """Return the parameters of a rank of a pipeline stage; a tied embedding that two stages hold counts in both."""
    last = shapes.pipeline - 1
    count = shapes.layers_of(stage) * shapes.layer_parameters
    count += shapes.vocabulary_weights * (stage == 0)
    if stage == last:
        count += shapes.hidden * (2 if model.normalization == "LayerNorm" else 1)
        tied_here = model.share_embeddings_and_output_weights and last == 0
        count += 0 if tied_here else shapes.vocabulary_weights
    return count


@lru_cache(maxsize=256)
def _layer_sizes(model: ModelConfig, tensor: int) -> tuple[int, int, int, int]:
    """Return (parameters, weights of matrices, those of the feed-forward, norms) of a layer on one rank."""
    table = table_of(model)
    sizes = [(spec, math.prod(local_shape(spec, num_ranks=tensor))) for spec in table.layer]
    weights = sum(size for spec, size in sizes if spec.is_matrix)
    feed_forward = sum(size for spec, size in sizes if spec.is_matrix and spec.name.startswith("mlp."))
    norms = 4 if model.norm_placement == "both" else 2
    return sum(size for _, size in sizes), weights, feed_forward, norms
