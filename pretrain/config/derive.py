"""Pure integers that follow from a configuration; steps and samples: steps.py. Nothing here reads a file or knows a rank."""

import math
from collections.abc import Sequence

from fanal.errors import UserError
from pretrain.config.schema import (
    ModelConfig,
    ParallelConfig,
    RunConfig,
    SourceConfig,
    SpanCorruptionConfig,
    TrainConfig,
)

RECOMPUTABLE = ("core_attn", "layernorm", "activation", "mlp")
"""Parts of a layer that train.recompute_modules may name; megatron-core's names where it has one."""
WHOLE_LOGITS_TOKENS = 16_384
"""Tokens of a micro batch on a rank up to which the logits lie in memory whole, unless train.loss_chunk_tokens says otherwise."""
LOSS_CHUNK_TOKENS = 4096
"""Tokens of a chunk of the loss above that."""


def kv_channels(model: ModelConfig) -> int:
    """Size of one attention head."""
    return model.kv_channels if model.kv_channels is not None else model.hidden_size // model.num_attention_heads


def next_multiple(value: int, factor: int) -> int:
    """The smallest multiple of the factor that is not below the value."""
    return -(-value // factor) * factor


def has_rotary_positions(model: ModelConfig, layer: int) -> bool:
    """Whether a layer, counted from 0, turns its queries and keys by their positions."""
    return model.no_rope_layer_interval is None or (layer + 1) % model.no_rope_layer_interval != 0


def has_sliding_window(model: ModelConfig, layer: int) -> bool:
    """Whether a position of a layer, counted from 0, sees no more than model.sliding_window positions."""
    interval = model.full_attention_layer_interval
    return model.sliding_window is not None and (interval is None or (layer + 1) % interval != 0)


def has_local_angles(model: ModelConfig, layer: int) -> bool:
    """Whether a layer, counted from 0, turns by the rotary base of local layers, without scaling: one with a window beside layers
    without one."""
    return model.full_attention_layer_interval is not None and has_sliding_window(model, layer)


def rotary_channels(model: ModelConfig) -> int:
    """Channels of each head that turn with the position."""
    return int(kv_channels(model) * model.rotary_percent)


def embedding_factor(model: ModelConfig) -> float:
    """Number that what the embedding gives is multiplied by."""
    return math.sqrt(model.hidden_size) if model.embedding_scale == "sqrt_hidden_size" else 1.0


def has_gate(model: ModelConfig) -> bool:
    """Whether the feed-forward multiplies by a gate."""
    return model.activation in ("swiglu", "geglu")


def layer_parameters(model: ModelConfig) -> int:
    """Weights of a layer's matrices. Norms and biases, a thousandth of them, are left out."""
    heads = kv_channels(model) * (model.num_attention_heads + model.num_query_groups)
    return 2 * model.hidden_size * heads + (3 if has_gate(model) else 2) * model.hidden_size * model.ffn_hidden_size


def padded_vocab_size(model: ModelConfig) -> int:
    """Rows of the embedding in memory: vocab_size rounded up, the same for every layout.

    Megatron pads by the tensor-parallel size, so that the model itself depends on the layout; ours does not.
    """
    return next_multiple(model.vocab_size, model.make_vocab_size_divisible_by)


def num_tokens(model: ModelConfig, *, tokenizer_vocab_size: int) -> int:
    """Tokens that the model gives a probability to, in training, validation, generation and exports alike.

    Rows of the embedding above the tokenizer's vocabulary stand for no token, whether model.vocab_size counts them or they pad it.
    """
    return min(model.vocab_size, tokenizer_vocab_size)


def key_value_holders(num_query_groups: int, *, tensor_model_parallel_size: int) -> int:
    """Tensor-parallel ranks that hold the same key and value heads: with fewer groups than ranks, neighbours have copies."""
    return max(1, tensor_model_parallel_size // num_query_groups)


def groups_of_a_rank(num_query_groups: int, *, tensor_model_parallel_size: int) -> int:
    """Key/value heads of a tensor-parallel rank: its share, or one that neighbours have too."""
    return max(1, num_query_groups // tensor_model_parallel_size)


def model_parallel_size(parallel: ParallelConfig) -> int:
    """Ranks that train one replica: that share the weights, and the sequences."""
    return parallel.tensor_model_parallel_size * parallel.pipeline_model_parallel_size * parallel.context_parallel_size


def world_size(parallel: ParallelConfig) -> int:
    """Ranks the layout asks for; one replica where data_parallel_size is left open."""
    return model_parallel_size(parallel) * (parallel.data_parallel_size or 1)


def data_parallel_size(parallel: ParallelConfig, *, num_ranks: int) -> int:
    """Replicas on ``num_ranks`` ranks.

    Raises: UserError if the ranks are not a whole number of replicas, or not the number the config states.
    """
    per_replica = model_parallel_size(parallel)
    if num_ranks % per_replica:
        fits = max(1, num_ranks // per_replica) * per_replica
        size = parallel.context_parallel_size
        context = f" * parallel.context_parallel_size ({size})" if size > 1 else ""
        raise UserError(
            f"{num_ranks} ranks cannot hold whole replicas of parallel.tensor_model_parallel_size "
            f"({parallel.tensor_model_parallel_size}) * parallel.pipeline_model_parallel_size "
            f"({parallel.pipeline_model_parallel_size}){context} = {per_replica} ranks; start {fits} or {fits + per_replica} ranks"
        )
    found = num_ranks // per_replica
    if parallel.data_parallel_size not in (None, found):
        raise UserError(
            f"parallel.data_parallel_size ({parallel.data_parallel_size}) needs "
            f"{per_replica * parallel.data_parallel_size} ranks and {num_ranks} are running; "
            f"set parallel.data_parallel_size={found}, or null to take what is there"
        )
    return found


def gathered_elements(model: ModelConfig, parallel: ParallelConfig, *, seq_length: int, micro_batch_size: int) -> int:
    """Numbers that a context-parallel rank has gathered of a layer and a micro batch: the keys and values of whole rows."""
    groups = groups_of_a_rank(model.num_query_groups, tensor_model_parallel_size=parallel.tensor_model_parallel_size)
    return 2 * seq_length * micro_batch_size * groups * kv_channels(model)


def num_microbatches(*, global_batch_size: int, micro_batch_size: int, data_parallel_size: int) -> int:
    """Forward passes each rank makes per optimizer step.

    Args: sizes in samples, data_parallel_size in ranks.
    Raises: UserError if the global batch does not divide evenly.
    """
    per_pass = micro_batch_size * data_parallel_size
    if global_batch_size % per_pass:
        raise UserError(
            f"train.global_batch_size ({global_batch_size}) must be a multiple of train.micro_batch_size "
            f"({micro_batch_size}) * data_parallel_size ({data_parallel_size}) = {per_pass}; "
            f"the next one is {-(-global_batch_size // per_pass) * per_pass}"
        )
    return global_batch_size // per_pass


def tokens_per_pass(run: RunConfig) -> int:
    """Tokens of a micro batch that a rank's layers see in one forward pass: of rows that it shares its chunks, under sequence
    parallelism all of its group."""
    return run.train.micro_batch_size * run.data.seq_length // run.parallel.context_parallel_size


def loss_chunk_tokens(train: TrainConfig, *, tokens: int) -> int | None:
    """Tokens whose logits lie in memory at a time; None for all at once, which a chunk as long as the micro batch is not.

    Args: tokens: of a micro batch on a rank, as of tokens_per_pass.
    """
    if train.loss_chunk_tokens is None:
        return None if tokens <= WHOLE_LOGITS_TOKENS else LOSS_CHUNK_TOKENS
    return train.loss_chunk_tokens or None


def recomputed_layers(train: TrainConfig, *, num_layers: int) -> int:
    """Layers that are computed again whole in the backward pass.

    Args: num_layers: of a model chunk.
    """
    if train.recompute != "full":
        return 0
    return num_layers if train.recompute_num_layers is None else min(num_layers, train.recompute_num_layers)


def offloaded_layers(train: TrainConfig, *, chunk: int, sizes: Sequence[int]) -> range:
    """Layers of a model chunk whose inputs wait in the host's memory for their backward, counted from its first one.

    Two inputs stay on the device: the first of a chunk that has it from another rank, which the pipeline's schedule holds in any
    case, and that of the model's last layer, whose backward comes at once.
    Args: chunk, in the order of the model; sizes, layers of all chunks.
    """
    recomputed = recomputed_layers(train, num_layers=sizes[chunk]) if train.offload_activations else 0
    stays = chunk == len(sizes) - 1 and recomputed == sizes[chunk]
    return range(min(1, chunk), recomputed - stays)


def recomputed_modules(train: TrainConfig) -> frozenset[str]:
    """Parts of every layer that are computed again in the backward pass, of RECOMPUTABLE."""
    return frozenset(train.recompute_modules if train.recompute == "selective" else ())


def mixture_weight(source: SourceConfig, *, train_tokens: int) -> float:
    """A source's share, relative to the others of its mixture.

    Args: train_tokens: tokens of the source that training may read.
    """
    if source.epochs is not None:
        return train_tokens * source.epochs
    return 1.0 if source.weight is None else source.weight


def num_spans(config: SpanCorruptionConfig, num_tokens: int) -> int:
    """Spans of a document of so many tokens under span corruption; 0 if it is too short for one, which takes four.

    With m tokens kept, m * noise_density of them in spans of mean_span_length, and two sentinels for each span, the document is as
    long as before.
    """
    density = config.noise_density
    wanted = int(num_tokens * density / (config.mean_span_length + 2 * density) + 0.5)
    return min(max(1, wanted), num_tokens // 4)
