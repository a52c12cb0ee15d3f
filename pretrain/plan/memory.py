"""Memory of a rank at the peak of a step, by arithmetic: what each part takes, in bytes, by pipeline stage.

It counts what a rehearsal counts, tensor by tensor, without building the model: what every operation of a layer holds for its
backward (kernels/, pretrain/model/layer_spec.py), how many micro batches are under way on a stage, and what is made beside them
at the three moments of a backward pass that may be the peak. tests/unit/plan compares the two. What neither counts: the CUDA
context, NCCL's buffers, workspaces, fragmentation. COPIES are counted here alone: no tensor holds them.
"""

from pretrain.config.derive import loss_chunk_tokens, offloaded_layers, recomputed_layers, recomputed_modules
from pretrain.config.schema import RunConfig
from pretrain.plan.optimizer_states import state_numbers
from pretrain.plan.shapes import FP32, Shapes, shapes_of, stage_parameters

WEIGHTS, GRADIENTS, OPTIMIZER = "weights", "gradients of the weights", "optimizer: masters and moments"
FEED_FORWARD, ATTENTION, NORMS, RESIDUALS = (
    "activations: feed-forward",
    "activations: attention",
    "activations: norms",
    "activations: residuals",
)
ENDS, LOGITS, MESSAGES, BACKWARD, COPIES = (
    "activations: ends of stages",
    "logits and loss",
    "buffers and messages",
    "gradients of activations",
    "copies that libraries make",
)

XIELU_BYTES = 6 * FP32 + 1
"""For each number of an xIELU: what its backward has at once, six tensors in fp32 and a mask (kernels/activations.py)."""
Parts = dict[str, int]


def stage_memory(run: RunConfig, shapes: Shapes, stage: int, *, tensors_alone: bool = False) -> Parts:
    """Return the bytes of each part at the peak of a step on a rank of a pipeline stage. The peak is their sum.

    Args: tensors_alone: leave out COPIES, as a rehearsal does.
    """
    parts = _static(run, shapes, stage)
    _add(parts, _under_way(run, shapes, stage))
    _add(parts, _at_the_moment(run, shapes, stage, tensors_alone=tensors_alone))
    if shapes.tensor > 1 and run.parallel.sequence_parallel:
        _add(parts, {MESSAGES: shapes.whole_hidden_bytes})  # into which every layer gathers
    if shapes.pipeline > 1:
        _add(parts, {MESSAGES: shapes.hidden_bytes})
    if shapes.virtual > 1:  # the interleaved schedule receives ahead, and holds gradients between chunks
        _add(parts, {MESSAGES: shapes.hidden_bytes, BACKWARD: 2 * shapes.hidden_bytes})
    return {kind: size for kind, size in parts.items() if size}


def stage_peaks(run: RunConfig, num_ranks: int) -> list[int]:
    """Return the bytes at the peak of a step of every pipeline stage. Raises: UserError if the ranks do not fit the layout."""
    shapes = shapes_of(run, num_ranks)
    return [sum(stage_memory(run, shapes, stage).values()) for stage in range(shapes.pipeline)]


def _static(run: RunConfig, shapes: Shapes, stage: int) -> Parts:
    """Weights, their gradients in fp32, masters and states."""
    parameters = stage_parameters(run.model, shapes, stage)
    copies = (run.optim.ema_decay is not None) + (run.train.precision == "bf16")  # in fp32 the weights are the masters
    numbers = parameters * copies + state_numbers(run, shapes, stage)
    kept = -(-numbers // shapes.shards) if run.parallel.use_distributed_optimizer else numbers
    return {WEIGHTS: parameters * shapes.item, GRADIENTS: parameters * FP32, OPTIMIZER: kept * FP32}


def _layer(run: RunConfig, shapes: Shapes) -> Parts:
    """What one layer holds of a micro batch between forward and backward, nothing computed again."""
    model, tokens, item = run.model, shapes.tokens, shapes.item
    queries = tokens * shapes.heads * shapes.head_size * item
    mixed = tokens * (shapes.heads + 2 * shapes.groups) * shapes.head_size * item
    attention = queries + _keys_and_values(run, shapes) + queries * _outputs(run, shapes) + tokens * shapes.heads * FP32
    if model.qk_layernorm:
        attention += _head_norms(run, shapes, mixed, queries)
    return {
        FEED_FORWARD: tokens * (shapes.wide + shapes.ffn) * item,
        ATTENTION: attention,
        NORMS: shapes.num_norms * (shapes.hidden_bytes + shapes.split_tokens * FP32),
        RESIDUALS: 2 * shapes.hidden_bytes,
    }


def _keys_and_values(run: RunConfig, shapes: Shapes) -> int:
    """What attention holds of keys and values: of whole rows, where ranks share them (pretrain/model/context_parallel.py)."""
    whole = 2 * shapes.tokens * shapes.context * shapes.groups * shapes.head_size * shapes.item
    if shapes.context > 1 and _on_cpu(run):  # the rows up to the end of each of two chunks, copied
        return whole * (2 * shapes.context + 1) // (2 * shapes.context)
    return whole


def _outputs(run: RunConfig, shapes: Shapes) -> int:
    """Return how many times attention's output is held: by itself, and where it was copied, by the product behind it."""
    return 2 if shapes.context > 1 or _on_cpu(run) else 1


def _head_norms(run: RunConfig, shapes: Shapes, mixed: int, queries: int) -> int:
    """What norms of queries and keys hold beside what is held without them."""
    keys = shapes.tokens * shapes.groups * shapes.head_size * shapes.item
    if run.model.qk_layernorm_scope == "head":
        numbers = shapes.tokens * (shapes.heads + shapes.groups) * FP32
        return mixed - keys + queries + numbers  # values are a part of what is held whole; queries are copied out of it
    wide = (queries + keys) // shapes.item * FP32
    return mixed - keys + 2 * wide  # in fp32, and normed


def _held(run: RunConfig, shapes: Shapes, layer: Parts) -> Parts:
    """What one layer holds where parts of it are computed again."""
    again, held = recomputed_modules(run.train), dict(layer)
    if "core_attn" in again:  # what goes into it is held, of this rank alone
        queries = shapes.tokens * shapes.heads * shapes.head_size * shapes.item
        own = 2 * shapes.tokens * shapes.groups * shapes.head_size * shapes.item
        held[ATTENTION] -= queries * _outputs(run, shapes) + shapes.tokens * shapes.heads * FP32
        held[ATTENTION] -= _keys_and_values(run, shapes) - own
    if "layernorm" in again and run.model.norm_placement != "after":
        held[NORMS] -= 2 * (shapes.hidden_bytes + shapes.split_tokens * FP32)
    if "layernorm" in again and run.model.qk_layernorm and run.model.qk_layernorm_scope == "full":
        held[ATTENTION] -= 2 * shapes.tokens * (shapes.heads + shapes.groups) * shapes.head_size * FP32
    if "mlp" in again:
        held[FEED_FORWARD] = 0
    elif "activation" in again:
        held[FEED_FORWARD] -= shapes.tokens * shapes.ffn * shapes.item
    return held


def chunks_under_way(shapes: Shapes, stage: int) -> int:
    """Return the forward passes of model chunks that a stage holds at its first backward (Narayanan et al., 2021, figure 4)."""
    behind = shapes.pipeline - stage - 1
    if shapes.virtual == 1:
        return min(shapes.micro_batches, behind + 1)
    return min(shapes.micro_batches * shapes.virtual, 2 * behind + (shapes.virtual - 1) * shapes.pipeline + 1)


def _under_way(run: RunConfig, shapes: Shapes, stage: int) -> Parts:
    """What the micro batches under way hold."""
    chunks, count = shapes.chunks_of(stage), chunks_under_way(shapes, stage)
    parts: Parts = {}
    for number, chunk in enumerate(chunks):
        passes = _passes(shapes, stage, number, count)
        _add(parts, {kind: size * passes for kind, size in _chunk(run, shapes, chunk).items()})
    return parts


def _passes(shapes: Shapes, stage: int, number: int, count: int) -> int:
    """Return how many of the passes under way are of a rank's model chunk: the schedule goes round them in groups of the stages."""
    whole, rest = divmod(count, shapes.pipeline * shapes.virtual)
    return (
        whole * shapes.pipeline + min(shapes.pipeline, max(0, rest - number * shapes.pipeline))
        if shapes.virtual > 1
        else count
    )


def _chunk(run: RunConfig, shapes: Shapes, chunk: int) -> Parts:
    """What a model chunk holds of one micro batch."""
    size, last = shapes.chunks[chunk], len(shapes.chunks) - 1
    again = recomputed_layers(run.train, num_layers=size)
    kept = _held(run, shapes, _layer(run, shapes))
    parts = {kind: bytes_ * (size - again) for kind, bytes_ in kept.items()}
    off = len(offloaded_layers(run.train, chunk=chunk, sizes=shapes.chunks))
    parts[RESIDUALS] += (again - off) * shapes.hidden_bytes
    if chunk < last and shapes.virtual == 1:
        parts[RESIDUALS] -= shapes.hidden_bytes  # its output is let go of when it is sent
    parts[ENDS] = shapes.hidden_bytes  # the embedding's output, or what came from the stage before
    if chunk == last:
        parts[NORMS] += shapes.hidden_bytes + shapes.split_tokens * FP32
    return parts


def _at_the_moment(run: RunConfig, shapes: Shapes, stage: int, *, tensors_alone: bool) -> Parts:
    """What is there beside all that is held, at the moment of the first backward that takes most."""
    moments = _layer_moments(run, shapes)
    if stage == shapes.pipeline - 1:
        moments.append(_loss_moment(run, shapes))
    if tensors_alone:
        moments = [{kind: size for kind, size in parts.items() if kind != COPIES} for parts in moments]
    return max(moments, key=lambda parts: sum(parts.values()))


def _layer_moments(run: RunConfig, shapes: Shapes) -> list[Parts]:
    """The moments of a layer's backward: at its second product, its activation, and its first product."""
    layer, item = _layer(run, shapes), shapes.item
    active, wide = shapes.tokens * shapes.ffn * item, shapes.tokens * shapes.wide * item
    whole = shapes.whole_hidden_bytes
    gathered = whole if run.parallel.sequence_parallel else 0
    made: Parts = {}
    if run.train.recompute == "full":
        made = dict(layer)
    again = recomputed_modules(run.train)
    if "mlp" in again:
        made = {FEED_FORWARD: layer[FEED_FORWARD]}
    elif "activation" in again:
        made = {FEED_FORWARD: active}
    second = gathered + active + shapes.hidden * shapes.ffn * item
    first = wide + whole + shapes.hidden * shapes.wide * item
    at_activation = active + wide + (active if _on_cpu(run) else 0)
    if run.model.activation == "xielu":
        at_activation += shapes.tokens * shapes.ffn * XIELU_BYTES
    held = _held(run, shapes, layer)
    mixed = shapes.tokens * (shapes.heads + 2 * shapes.groups * shapes.context) * shapes.head_size * item
    at_attention = {
        ATTENTION: layer[ATTENTION] - held[ATTENTION],
        FEED_FORWARD: -held[FEED_FORWARD],
        BACKWARD: mixed + shapes.tokens * shapes.heads * shapes.head_size * item,
    }
    return [
        *([] if run.train.recompute == "full" else [at_attention]),
        {**made, BACKWARD: second, COPIES: _copied(run, whole)},
        {**made, BACKWARD: at_activation, FEED_FORWARD: made.get(FEED_FORWARD, 0) - active},
        {**made, BACKWARD: first, COPIES: _copied(run, wide), FEED_FORWARD: made.get(FEED_FORWARD, 0) - active - wide},
    ]


def _loss_moment(run: RunConfig, shapes: Shapes) -> Parts:
    """The moment of the output layer's backward: its logits, the gradient of what it was given, and that of its weight."""
    chunk = loss_chunk_tokens(run.train, tokens=shapes.tokens)
    tokens = min(shapes.tokens, chunk or shapes.tokens)
    weight = shapes.vocabulary_weights * shapes.item
    gradients = weight + shapes.whole_hidden_bytes + (shapes.hidden_bytes if run.parallel.sequence_parallel else 0)
    logits = tokens * shapes.vocabulary * shapes.item
    return {LOGITS: logits, BACKWARD: gradients, COPIES: _copied(run, logits)}


def _copied(run: RunConfig, gradient: int) -> int:
    """Return the bytes that a library copies of an output's gradient where it multiplies it for the gradient of a weight.

    oneDNN turns it over, in fp32 on a CPU (fanal/kernels/products.py): measured, to a part in a hundred, for six shapes. It is no
    tensor, so that a rehearsal does not see it. Whether products go to oneDNN is known of this machine's processor alone.
    """
    if not _on_cpu(run) or run.train.precision != "fp32":
        return 0
    from fanal.kernels.products import onednn_is_faster  # torch, which no plan for GPUs needs

    return gradient if onednn_is_faster() else 0


def _on_cpu(run: RunConfig) -> bool:
    return run.parallel.device == "cpu"


def _add(parts: Parts, more: Parts) -> None:
    for kind, size in more.items():
        parts[kind] = parts.get(kind, 0) + size
