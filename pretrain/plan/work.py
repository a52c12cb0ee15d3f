"""Work of one micro batch and of one step on a rank, by pipeline stage: operations, bytes of memory, bytes of messages.

Pure arithmetic. Operations of products are two for a weight and a token, twice as many in the backward (Narayanan et al., 2021,
arXiv:2104.04473, appendix A); those of attention are of the positions that are seen, four for a query, a key and a channel, and
2.5 times as many in the backward, which computes the scores again (Dao et al., 2022, arXiv:2205.14135).
"""

from dataclasses import dataclass

from pretrain.config.derive import loss_chunk_tokens, recomputed_layers, recomputed_modules
from pretrain.config.schema import RunConfig
from pretrain.config.stages import num_chunks
from pretrain.model.flops import positions_seen
from pretrain.plan.optimizer_states import state_numbers
from pretrain.plan.shapes import FP32, Shapes, stage_parameters

ATTENTION_BACKWARD = 2.5
"""Operations of attention's backward for one of its forward."""
CONTEXT_PIECES = 2
"""Messages in which ranks that share a sequence send keys and values at most (pretrain/model/context_parallel.py)."""
SCHEDULE_PASSES = 5
"""Times that a step reads or writes the fp32 gradients beside the products: to zero, to divide, to sum their squares."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a rank does of one micro batch, in all of its model chunks, forward and backward together."""

    product_flops: float
    attention_flops: float
    memory_bytes: float
    """Read and written by everything that is neither a product nor attention, and by the sums of weights' gradients."""
    backward_share: float
    """Part of the products' and attention's operations that the backward has, recomputation included."""
    layers: float
    """Layers, those computed again counted half more: what the host starts."""
    tensor_calls: float
    """Gathers and scatters of tensor parallelism that nothing hides; an all-reduce is two."""
    tensor_hidden_calls: float
    """Those that go beside a product; half of them sum."""
    tensor_sums: float
    """Of tensor_calls, those that sum: scatters."""
    tensor_bytes: float
    """Of the whole tensor of one of them."""
    context_gathers: float
    """Of keys and values."""
    context_sums: float
    """Of their gradients."""
    context_pieces: int
    """Messages that one of these gathers or sums goes in."""
    context_bytes: float
    """Of the whole tensor of one gather of keys and values."""
    pipeline_bytes: float
    """Sent to the stage behind, or back, in one message."""
    pipeline_messages: float


@dataclass(frozen=True, kw_only=True)
class StepWork:
    """What a rank does once a step."""

    reduced_bytes: float
    """Of the gradients that replicas sum."""
    gathered_bytes: float
    """Of the weights that they gather, with the distributed optimizer."""
    update_bytes: float
    """Memory traffic of the update."""


def micro_batch_work(run: RunConfig, shapes: Shapes, stage: int) -> Work:
    """Return what a rank of a pipeline stage does of one micro batch."""
    layers, again = shapes.layers_of(stage), _layers_again(run, shapes, stage)
    passes = 3 * layers + again
    products = 2.0 * shapes.tokens * (shapes.layer_weights * passes + _parts_again(run, shapes) * layers)
    scores = _score_flops(run, shapes, stage)
    attention = scores * (1 + ATTENTION_BACKWARD) + scores * (again / layers + _has(run, "core_attn"))
    memory = _layer_bytes(run, shapes) * (passes + (_has(run, "layernorm") + _has(run, "activation")) * layers / 4)
    memory += 2 * FP32 * shapes.layer_weights * layers  # the sum of gradients is read and written
    if stage == shapes.pipeline - 1:
        chunked = loss_chunk_tokens(run.train, tokens=shapes.tokens) is not None
        products += 2.0 * shapes.tokens * shapes.vocabulary_weights * (4 if chunked else 3)
        memory += 3 * shapes.tokens * shapes.vocabulary * shapes.item + 2 * FP32 * shapes.vocabulary_weights
    if stage == 0:
        memory += 4 * shapes.hidden_bytes
    ends = (stage == 0) + (stage == shapes.pipeline - 1)
    calls, hidden = _tensor_calls(run, shapes, layers, again, ends=ends)
    boundaries = 2 * len(shapes.chunks_of(stage)) - (stage == 0) - (stage == shapes.pipeline - 1)
    forward = 2.0 * shapes.tokens * shapes.layer_weights * layers + scores
    whole = products + attention
    return Work(
        product_flops=products,
        attention_flops=attention,
        memory_bytes=memory,
        backward_share=1 - min(0.5, forward / whole) if whole else 0.5,
        layers=layers + again / 2,
        tensor_calls=calls,
        tensor_hidden_calls=hidden,
        tensor_sums=2 * layers + 2 * again + ends if shapes.tensor > 1 else 0,
        tensor_bytes=shapes.whole_hidden_bytes,
        context_gathers=layers + again if shapes.context > 1 else 0,
        context_sums=layers if shapes.context > 1 else 0,
        context_pieces=min(shapes.groups, CONTEXT_PIECES),
        context_bytes=2 * shapes.tokens * shapes.context * shapes.groups * shapes.head_size * shapes.item,
        pipeline_bytes=shapes.hidden_bytes,
        pipeline_messages=2 * boundaries if num_chunks(run.parallel) > 1 else 0,
    )


def step_work(run: RunConfig, shapes: Shapes, stage: int) -> StepWork:
    """Return what a rank of a pipeline stage does once a step: sums of gradients, the update, gathers of weights."""
    parameters = stage_parameters(run.model, shapes, stage)
    distributed, alone = run.parallel.use_distributed_optimizer, shapes.shards == 1
    shared = shapes.shards if distributed else 1
    written = parameters + state_numbers(run, shapes, stage)  # masters and states, which are read, too
    if run.optim.ema_decay is not None:
        written += parameters * 1.5  # the average, and its masters once more, read
    update = (FP32 * (2 * written + parameters) + parameters * shapes.item) / shared
    update += parameters * FP32 * SCHEDULE_PASSES
    return StepWork(
        reduced_bytes=0.0 if alone else parameters * FP32 * (1 if distributed else 2),
        gathered_bytes=parameters * shapes.item if distributed and not alone else 0.0,
        update_bytes=update,
    )


def _has(run: RunConfig, part: str) -> bool:
    return part in recomputed_modules(run.train)


def _layers_again(run: RunConfig, shapes: Shapes, stage: int) -> int:
    return sum(recomputed_layers(run.train, num_layers=shapes.chunks[chunk]) for chunk in shapes.chunks_of(stage))


def _parts_again(run: RunConfig, shapes: Shapes) -> int:
    """Return the weights of a layer's products that selective recomputation multiplies by once more."""
    return shapes.feed_forward_weights if _has(run, "mlp") else 0


def _score_flops(run: RunConfig, shapes: Shapes, stage: int) -> float:
    """Return the operations of scores and of values in the forward of a stage's layers, of what is seen."""
    first = 0
    seen = 0.0
    mine = set(shapes.chunks_of(stage))
    for number, size in enumerate(shapes.chunks):
        if number in mine:
            seen += sum(
                positions_seen(run.model, layer, shapes.attended, causal=True) for layer in range(first, first + size)
            )
        first += size
    return 4.0 * shapes.tokens * shapes.heads * shapes.head_size * seen


def _layer_bytes(run: RunConfig, shapes: Shapes) -> float:
    """Return the memory that elementwise operations of a layer read and write in one pass; a backward counts as two."""
    rows, item = shapes.hidden_bytes, shapes.item
    mixed = shapes.tokens * (shapes.heads + 2 * shapes.groups) * shapes.head_size * item
    norms = 2 * rows * shapes.num_norms + (2 * mixed if run.model.qk_layernorm else 0)
    fused = norms + 6 * rows + 2 * mixed + shapes.tokens * (shapes.wide + shapes.ffn) * item
    return fused + _unfused_bytes(run, shapes)


def _unfused_bytes(run: RunConfig, shapes: Shapes) -> float:
    """Return what torch's operations move beside the fused kernels in one of three passes, where a run takes them, not compiled.

    Counted by operation: a gated activation 5 f forward (its function, the product) and 13 f backward (two products, the
    function, both gradients into one tensor) where a kernel has 9 f; a rotary embedding 22 times queries and keys instead of 4.
    """
    if run.train.compile:
        return 0.0
    more = 0.0
    if run.kernels.activation == "torch" and shapes.wide > shapes.ffn:
        more += (18 - 9) / 3 * shapes.tokens * shapes.ffn * shapes.item
    if run.kernels.rotary == "torch":
        more += (22 - 4) / 3 * shapes.tokens * (shapes.heads + shapes.groups) * shapes.head_size * shapes.item
    return more


def _tensor_calls(run: RunConfig, shapes: Shapes, layers: int, again: int, *, ends: int) -> tuple[float, float]:
    """Return (gathers and scatters that nothing hides, those beside a product): pretrain/model/linear.py."""
    if shapes.tensor == 1:
        return 0, 0
    if run.parallel.sequence_parallel:
        return 6 * layers + 4 * again + 2 * ends, 4 * layers
    return 4 * layers + 4 * again + 2 * ends, 4 * layers
