"""The small twin of a run: the same family and recipe at a fraction of the parameters, for a CPU or one GPU (``--scale 1/64``).

What the scale s changes, and by which rule:

- Parameters without embeddings become about s times as many. Width and depth shrink together, each by s^(1/3), as Kaplan et al.
  (2020, arXiv:2001.08361) find that the ratio of the two matters little. Layers, heads and widths are whole numbers, so s is
  approached; no model gets below two layers, two key/value heads and heads of 16.
- Kept: activation, norms, biases, QK-norm, window and NoPE intervals, rotary positions, tied embeddings, query heads for each
  key/value head, the ratio of the feed-forward to the width, the vocabulary (it is the tokenizer's), the sequence length.
- Initial values keep width times variance, the size of what a product gives (Yang et al., 2022, arXiv:2203.03466).
- Tokens become s times as many: as many for each parameter. All counts of samples follow, those of the schedule among them.
- With both, compute becomes s^2 of it, and the laws of DeepSeek LLM (2024, arXiv:2401.02954), learning rate by compute^-0.125 and
  batch by compute^0.3271, give s^-0.25 and s^0.6542. Where another part of the tokens is asked for, s is the root of both parts'
  product.
- Counts of steps keep their share of the run. The layout is one rank, or as many replicas as there are ranks.

None of these rules was fitted to our own runs. Pure arithmetic; reads no file.
"""

import math
import re
from dataclasses import fields, replace
from fractions import Fraction

from fanal.errors import UserError
from fanal.shown import shown
from pretrain.config.derive import kv_channels, layer_parameters
from pretrain.config.schema import (
    BatchRampConfig,
    BatchStageConfig,
    CheckpointConfig,
    DataConfig,
    ModelConfig,
    OptimConfig,
    ParallelConfig,
    RunConfig,
    TrainConfig,
)
from pretrain.config.steps import consumed_samples_at, step_at

SMALLEST = Fraction(1, 10**9)
FEWEST_LAYERS = 2
FEWEST_GROUPS = 2
SMALLEST_HEAD = 16
WIDTH_STEP = 64
"""What a feed-forward's width is a multiple of."""
RATE_POWER = -0.25
BATCH_POWER = 0.6542
LARGEST_GROWTH = 10.0
"""Times that a learning rate may grow: the laws were fitted to models from a thousandth of the size on."""
WITHIN_AN_UPDATE = "muon_num_ns_steps"
"""The one key of the optimizer whose steps are no updates of the run: iterations inside each, of Newton and Schulz."""


def parse_scale(text: str, option: str = "--scale") -> Fraction:
    """Read a scale, such as 1/64 or 0.01. Raises: UserError naming the option unless it is above 0 and below 1."""
    problem = f"{option} ({shown(text, 40)}) must be a fraction above 0 and below 1; {option} 1/64 works"
    if not re.fullmatch(r"[0-9]{1,12}(/[0-9]{1,12}|\.[0-9]{1,12})?|\.[0-9]{1,12}", text) or re.search(r"/0+$", text):
        raise UserError(problem)
    scale = Fraction(text)
    if not SMALLEST <= scale < 1:
        raise UserError(problem)
    return scale


def scaled(run: RunConfig, scale: Fraction, tokens: Fraction | None = None) -> RunConfig:
    """Return the small twin of a valid run, in a run folder of its own. A phase begins with the twin of the phase before it.

    Args: scale: the part of the layers' parameters; tokens: the part of the tokens, which may be more than all; None: the scale's.
    """
    part = scale if tokens is None else tokens
    size = float(scale) if tokens is None else math.sqrt(scale * tokens)
    train = _scaled_train(run.train, part, size)
    steps = Fraction(train.train_steps, run.train.train_steps)
    return replace(
        run,
        run_dir=twin_path(run.run_dir, scale),
        model=scaled_model(run.model, scale),
        data=_scaled_data(run.data, part),
        parallel=_one_rank(run.parallel),
        optim=_scaled_optim(run.optim, run.train, part, steps, size),
        train=replace(train, validation_interval=_part(train.validation_interval, steps)),
        checkpoint=_scaled_checkpoint(run.checkpoint, steps, scale),
    )


def twin_path(path: str, scale: Fraction) -> str:
    """Return the folder of a run's twin."""
    return f"{path.rstrip('/')}-scale-{scale.numerator}-{scale.denominator}"


def scaled_model(model: ModelConfig, scale: Fraction) -> ModelConfig:
    """Return a model of the same kind with about this part of the parameters in its layers."""
    factor = float(scale) ** (1 / 3)
    groups, head = _heads(model, factor)
    heads = groups * (model.num_attention_heads // model.num_query_groups)
    if model.num_attention_heads * kv_channels(model) == model.hidden_size:
        hidden = heads * head  # as before, queries are as wide as the model
    else:
        step = heads if model.hidden_size % model.num_attention_heads == 0 else SMALLEST_HEAD
        hidden = _near(model.hidden_size * factor, step)
    wide = replace(
        model,
        hidden_size=hidden,
        ffn_hidden_size=_near(
            model.ffn_hidden_size * hidden / model.hidden_size, min(WIDTH_STEP, model.ffn_hidden_size)
        ),
        num_attention_heads=heads,
        num_query_groups=groups,
        kv_channels=None if model.kv_channels is None and heads * head == hidden else head,
        init_method_std=_brief(model.init_method_std * (model.hidden_size / hidden) ** 0.5),
        query_pre_attention_scalar=None
        if model.query_pre_attention_scalar is None
        else model.query_pre_attention_scalar * head / kv_channels(model),
    )
    wanted = float(scale) * model.num_layers * layer_parameters(model)
    return replace(wide, num_layers=_layers(model, wanted / layer_parameters(wide)))


def _heads(model: ModelConfig, factor: float) -> tuple[int, int]:
    """Return key/value heads and the size of a head: heads become fewer while two are left, and then smaller."""
    head, ratio = kv_channels(model), model.num_attention_heads // model.num_query_groups
    wanted = model.num_query_groups * factor
    fewest = min(FEWEST_GROUPS, model.num_query_groups)
    groups = min(model.num_query_groups, max(fewest, _near(wanted, fewest)))
    size = wanted * head / groups
    assert ratio * groups <= model.num_attention_heads, "a twin has no more heads"
    return groups, head if head <= SMALLEST_HEAD else min(head, _near(size, SMALLEST_HEAD))


def _layers(model: ModelConfig, wanted: float) -> int:
    """Return a number of layers near the wanted one in which every N-th layer is still one of each kind."""
    intervals = [n for n in (model.full_attention_layer_interval, model.no_rope_layer_interval) if n is not None]
    step = math.lcm(*intervals) if intervals else min(FEWEST_LAYERS, model.num_layers)
    return min(model.num_layers, _near(wanted, step))


def _near(wanted: float, step: int) -> int:
    """Return the multiple of the step that is nearest, at least the step itself."""
    return step * max(1, round(wanted / step))


def _part(count: int | None, part: Fraction) -> int | None:
    """Return a part of a count of samples or steps: at least one where there was one."""
    return max(1, int(count * part)) if count else count


def _samples(count: int, scale: Fraction) -> int:
    """Return a part of a count of samples: at least one where there was one."""
    return _part(count, scale) or 0


def _scaled_train(train: TrainConfig, scale: Fraction, size: float) -> TrainConfig:
    """Return batches and steps; what else counts steps is not changed yet.

    Args: scale: part of the samples; size: root of the part of the compute.
    """
    batch_factor, ramp = size**BATCH_POWER, train.batch_ramp
    if ramp is None:
        micro = min(train.micro_batch_size, max(1, round(train.global_batch_size * batch_factor)))
        batch = _near(train.global_batch_size * batch_factor, micro)
    else:
        start, increment = (max(1, round(size * batch_factor)) for size in (ramp.start, ramp.increment))
        micro, batch = 1, start + _near(train.global_batch_size * batch_factor - start, increment)
        ramp = BatchRampConfig(start=start, increment=increment, samples=_samples(ramp.samples, scale))
        # A stage of the ramp holds at least one sample.
        if (batch - start) // increment > ramp.samples:
            ramp = None
    made = replace(
        train,
        global_batch_size=batch,
        micro_batch_size=micro,
        batch_ramp=ramp,
        batch_stages=_scaled_stages(train, ramp, micro, batch_factor, scale),
        recompute="none",
        recompute_num_layers=None,
        offload_activations=False,
        recompute_modules=TrainConfig().recompute_modules,
    )
    return replace(made, train_steps=step_at(made, _samples(consumed_samples_at(train, train.train_steps), scale)))


def _scaled_stages(
    train: TrainConfig, ramp: BatchRampConfig | None, micro: int, factor: float, scale: Fraction
) -> list[BatchStageConfig]:
    """Return the later batches, each from its part of the run on, after the ramp. Two that begin with the same sample become the
    last of them.
    """
    first = 1 if ramp is None else ramp.samples + 1
    stages = {
        max(first, _samples(stage.start_sample, scale)): _near(stage.global_batch_size * factor, micro)
        for stage in train.batch_stages
    }
    return [BatchStageConfig(start_sample=start, global_batch_size=size) for start, size in stages.items()]


def _scaled_optim(optim: OptimConfig, train: TrainConfig, scale: Fraction, steps: Fraction, size: float) -> OptimConfig:
    """Return the schedule of the same shape. Its end is stated, so that a run of fewer steps is the beginning of the same one.

    Whatever key ends in _samples or _sample counts samples, in _steps updates, but for those within an update.
    """
    counts = {field.name: getattr(optim, field.name) for field in fields(optim) if field.name != WITHIN_AN_UPDATE}
    parts = {name: _part(count, scale) for name, count in counts.items() if name.endswith(("_samples", "_sample"))}
    parts |= {name: _part(count, steps) for name, count in counts.items() if name.endswith("_steps")}
    rate_factor = min(size**RATE_POWER, LARGEST_GROWTH)
    decay = _samples(optim.lr_decay_samples or consumed_samples_at(train, train.train_steps), scale)
    final = _part(optim.lr_wsd_decay_samples, scale)
    warmup = min(_samples(optim.lr_warmup_samples, scale), decay - (final is not None))
    return replace(
        replace(optim, **parts),
        lr=_brief(optim.lr * rate_factor),
        min_lr=_brief(optim.min_lr * rate_factor),
        lr_warmup_samples=warmup,
        lr_decay_samples=decay,
        lr_wsd_decay_samples=None if final is None else max(1, min(final, decay - warmup)),
    )


def _brief(number: float) -> float:
    """Return a number in as many digits as people read."""
    return float(f"{number:.4g}")


def _scaled_data(data: DataConfig, scale: Fraction) -> DataConfig:
    """Return the same mixtures, each from its part of the run on."""
    phases, before = [], 0
    for phase in data.phases:
        before = max(before + 1, _samples(phase.start_sample, scale))
        phases.append(replace(phase, start_sample=before))
    return replace(data, phases=phases)


def _one_rank(parallel: ParallelConfig) -> ParallelConfig:
    """Return the layout of one rank; more ranks are more replicas."""
    return replace(
        parallel,
        tensor_model_parallel_size=1,
        pipeline_model_parallel_size=1,
        virtual_pipeline_model_parallel_size=1,
        context_parallel_size=1,
        pipeline_layers=None,
        num_layers_in_first_pipeline_stage=None,
        num_layers_in_last_pipeline_stage=None,
        data_parallel_size=None,
        sequence_parallel=False,
    )


def _scaled_checkpoint(checkpoint: CheckpointConfig, steps: Fraction, scale: Fraction) -> CheckpointConfig:
    return replace(
        checkpoint,
        init_from=None if checkpoint.init_from is None else twin_path(checkpoint.init_from, scale),
        interval=_part(checkpoint.interval, steps),
        keep_every_steps=_part(checkpoint.keep_every_steps, steps),
    )
