"""Cross-field rules of a configuration. Each error names the fields, their values, the rule and a value that works."""

import math
from collections.abc import Callable
from dataclasses import fields
from functools import partial

from fanal.errors import UserError
from fanal.run_progress import NEW_RUN, Standing
from pretrain.config.batch_rules import check_batch
from pretrain.config.derive import data_parallel_size, next_multiple
from pretrain.config.model_rules import check_model
from pretrain.config.number_rules import LARGEST, LARGEST_INTEGER, LARGEST_SAMPLE, check_numbers
from pretrain.config.objective_rules import check_objective
from pretrain.config.path_rules import check_path_texts
from pretrain.config.recompute_rules import check_recompute
from pretrain.config.schedule_rules import check_final_decay
from pretrain.config.schema import (
    ModelConfig,
    OptimConfig,
    ParallelConfig,
    PhaseConfig,
    RunConfig,
    SourceConfig,
    SpikeConfig,
    TrainConfig,
)
from pretrain.config.stage_rules import check_stages
from pretrain.config.steps import consumed_samples_at, last_step, lr_decay_samples

LARGEST_WINDOW = 10_000
"""Steps; every checkpoint's state.json holds the window, and every step sums over it."""


def check(run: RunConfig, since: Standing = NEW_RUN) -> None:
    """Refuse a configuration that cannot run, whatever the machine.

    Args: since: the point from which the run resumes, if it does: a schedule without an end of its own ends with the run.
    Raises: UserError naming the first broken rule.
    """
    _check(run, since, partial(_passes, since=since))


def _check(run: RunConfig, since: Standing, passes: Callable[[RunConfig], bool]) -> None:
    check_path_texts(run)
    check_numbers(run, passes)
    check_model(run.model)
    _check_parallel(run.parallel, run.model, run.train)
    check_batch(run.train, run.parallel, run.parallel.data_parallel_size or 1)
    _check_optim(run.optim, run.train, since)
    check_recompute(run.train)
    _check_kernels(run)
    _check_average(run)
    _check_length(run)
    _check_data(run)
    check_objective(run.objective, run.data.seq_length)
    _check_times(run.train)
    if run.train.spikes is not None:
        _check_spikes(run.train.spikes)


def _passes(run: RunConfig, *, since: Standing) -> bool:
    """Whether all rules hold. A value is recommended only after it was asked here; in here none is looked for."""
    try:
        _check(run, since, lambda _: True)
    except UserError:
        return False
    return True


def check_ranks(run: RunConfig, num_ranks: int) -> None:
    """Refuse ranks that the layout or the batch cannot use, before any of them waits for another.

    Raises: UserError naming the first broken rule.
    """
    check_batch(run.train, run.parallel, data_parallel_size(run.parallel, num_ranks=num_ranks))
    if run.log.profile_from_step is not None and run.log.profile_rank >= num_ranks:
        raise UserError(
            f"log.profile_rank ({run.log.profile_rank}) must be one of the {num_ranks} rank(s) of the run, counted from 0; "
            f"log.profile_rank={num_ranks - 1} works"
        )


def _check_parallel(parallel: ParallelConfig, model: ModelConfig, train: TrainConfig) -> None:
    tensor = parallel.tensor_model_parallel_size
    _check_split(tensor, model)
    if parallel.sequence_parallel and tensor == 1:
        raise UserError(
            "parallel.sequence_parallel (true) needs parallel.tensor_model_parallel_size above 1 (now 1); "
            "set parallel.sequence_parallel=false"
        )
    check_stages(parallel, model)
    if parallel.overlap_param_gather and not (parallel.use_distributed_optimizer and parallel.overlap_grad_reduce):
        raise UserError(
            "parallel.overlap_param_gather (true) needs parallel.use_distributed_optimizer and parallel.overlap_grad_reduce; "
            "set both to true, or overlap_param_gather to false"
        )


def _check_split(tensor: int, model: ModelConfig) -> None:
    """Refuse heads, groups or a feed-forward that do not divide among tensor-parallel ranks. Rows of tokens need not."""
    split = (("model.num_attention_heads", model.num_attention_heads), ("model.ffn_hidden_size", model.ffn_hidden_size))
    groups = model.num_query_groups

    def fits(size: int) -> bool:
        return all(whole % size == 0 for _, whole in split) and (groups % size == 0 or size % groups == 0)

    if fits(tensor):
        return
    works = max(size for size in range(1, tensor + 1) if fits(size))
    for name, value in split:
        if value % tensor:
            raise UserError(
                f"{name} ({value}) must be a multiple of parallel.tensor_model_parallel_size ({tensor}); "
                f"tensor_model_parallel_size={works} works"
            )
    raise UserError(
        f"model.num_query_groups ({groups}) must be a multiple of parallel.tensor_model_parallel_size ({tensor}), or divide it, so "
        f"that every rank holds whole key/value heads; parallel.tensor_model_parallel_size={works} works"
    )


def _check_kernels(run: RunConfig) -> None:
    if run.kernels.adamw == "triton" and run.optim.name != "adamw":
        raise UserError(
            f"kernels.adamw (triton) must be auto or torch with optim.name {run.optim.name}, whose update it is not; "
            "kernels.adamw=auto works"
        )


def _check_average(run: RunConfig) -> None:
    if run.train.validate_ema and run.optim.ema_decay is None:
        raise UserError(
            "train.validate_ema (true) must be false without optim.ema_decay (null), which keeps the average; "
            "optim.ema_decay=0.999 works, or train.validate_ema=false"
        )


def _check_length(run: RunConfig) -> None:
    """Refuse a run whose samples or tokens no 64-bit number counts: checkpoints and logs hold both."""
    train, seq_length = run.train, run.data.seq_length
    samples = consumed_samples_at(train, train.train_steps)
    if samples > LARGEST_SAMPLE or samples * seq_length > LARGEST_INTEGER:
        per_step = max(train.global_batch_size, *(stage.global_batch_size for stage in train.batch_stages), 1)
        works = min(LARGEST_SAMPLE // per_step, LARGEST_INTEGER // (per_step * seq_length))
        raise UserError(
            f"train.train_steps ({train.train_steps}) gives {samples:,} samples of data.seq_length ({seq_length}), and must give "
            f"at most {LARGEST_SAMPLE:,} samples and {LARGEST_INTEGER:,} tokens; train.train_steps={works} works"
        )


def check_rate_left(optim: OptimConfig, train: TrainConfig, since: Standing) -> None:
    """Refuse to train steps at a rate of 0: all that are left of a run that resumes, or the last ones of a new run.

    Not a rule of ``check``: the config of a run that did train so can still be read, to export its checkpoints.
    Raises: UserError.
    """
    end, last = lr_decay_samples(optim, train, since), last_step(optim, train, since)
    first_idle = since.consumed_samples if since.step else consumed_samples_at(train, last - 1)
    ends = optim.lr_decay_style != "constant" and optim.min_lr == 0
    if not ends or since.step >= last or first_idle < end:
        return
    where = f"it resumes after step {since.step}" if since.step else "its last step starts"
    raise UserError(
        f"optim.lr_decay_samples ({optim.lr_decay_samples}) must not end the schedule while steps are left, since optim.min_lr "
        f"({optim.min_lr:g}) trains nothing, and {where} at sample {first_idle}; optim.lr_decay_samples=null works, which ends "
        f"it with step {train.train_steps}, or optim.min_lr={optim.lr / 10:g}"
    )


def _check_optim(optim: OptimConfig, train: TrainConfig, since: Standing) -> None:
    if optim.min_lr > optim.lr:
        raise UserError(f"optim.min_lr ({optim.min_lr}) must not be above optim.lr ({optim.lr}); {optim.lr / 10} works")
    _check_optimizer(optim, train)
    if since.step > train.train_steps:
        return  # loading its checkpoint says so
    decay = lr_decay_samples(optim, train, since)
    if optim.lr_warmup_samples > decay:
        raise UserError(
            f"optim.lr_warmup_samples ({optim.lr_warmup_samples}) must not be above the {decay} samples of the schedule "
            f"(optim.lr_decay_samples, or the whole run); {decay // 10} works"
        )
    check_final_decay(optim, since, decay)


def _check_optimizer(optim: OptimConfig, train: TrainConfig) -> None:
    for name in ("ademamix_beta3_warmup_steps", "ademamix_alpha_warmup_steps"):
        if optim.name == "ademamix" and getattr(optim, name) is None:
            works = min(train.train_steps, LARGEST["optim"][name])
            raise UserError(
                f"optim.{name} (null) must be stated with optim.name ademamix, in updates; {works} works, all of the "
                "run as in its paper, and 0 for none"
            )


def _check_data(run: RunConfig) -> None:
    _check_seq_length(run.data.seq_length, run.parallel)
    if not run.data.train:
        raise UserError("data.train (empty) must name at least one source, such as [{prefix: shards/train}]")
    if not 0 <= run.data.validation_fraction < 1:
        raise UserError(
            f"data.validation_fraction ({run.data.validation_fraction}) must be at least 0 and below 1; 0.001 works"
        )
    if run.data.prefetch_bytes < 0:
        raise UserError(f"data.prefetch_bytes ({run.data.prefetch_bytes}) must not be negative; 0 reads nothing ahead")
    if run.data.verify is not None and run.data.verify.bytes_per_s < 1:
        raise UserError(
            f"data.verify.bytes_per_s ({run.data.verify.bytes_per_s}) must be above 0; data.verify=null compares nothing"
        )
    for index, source in enumerate(run.data.validation):
        if source.weight is not None or source.epochs is not None:
            raise UserError(
                f"data.validation[{index}] has a share (weight {source.weight}, epochs {source.epochs}) and validation sources "
                "are not mixed; weight=null and epochs=null work"
            )
    _check_mixture("data.train", run.data.train)
    _check_phases(run.data.phases)


def _check_phases(phases: list[PhaseConfig]) -> None:
    before = 0
    for index, phase in enumerate(phases):
        name = f"data.phases[{index}]"
        if phase.start_sample <= before:
            raise UserError(
                f"{name}.start_sample ({phase.start_sample}) must be above {before}, where the mixture before it starts; "
                f"{before + 1} works"
            )
        if phase.start_sample > LARGEST_SAMPLE:
            raise UserError(
                f"{name}.start_sample ({phase.start_sample}) must be at most {LARGEST_SAMPLE}, the last sample that can be "
                f"counted; {before + 1} works"
            )
        if not phase.train:
            raise UserError(f"{name}.train (empty) must name at least one source, such as [{{prefix: shards/train}}]")
        _check_mixture(f"{name}.train", phase.train)
        before = phase.start_sample


def _check_seq_length(seq_length: int, parallel: ParallelConfig) -> None:
    """Refuse sequences that do not divide among the ranks that share them."""
    tensor, context = parallel.tensor_model_parallel_size, parallel.context_parallel_size
    divisor, of_what = 1, []
    if context > 1:  # two chunks a rank
        divisor, of_what = 2 * context, [f"2 * parallel.context_parallel_size ({context})"]
    if parallel.sequence_parallel:
        divisor *= tensor
        of_what.append(f"parallel.tensor_model_parallel_size ({tensor}) with sequence_parallel")
    if seq_length % divisor:
        product = f" = {divisor}" if context > 1 else ""
        raise UserError(
            f"data.seq_length ({seq_length}) must be a multiple of {' * '.join(of_what)}{product}; "
            f"{next_multiple(seq_length, divisor)} works"
        )


def _check_mixture(name: str, sources: list[SourceConfig]) -> None:
    """Shares are comparable only where all sources state them in the same way."""
    by_epochs = next((index for index, source in enumerate(sources) if source.epochs is not None), None)
    for index, source in enumerate(sources):
        if source.weight is not None and source.epochs is not None:
            raise UserError(
                f"{name}[{index}] has both weight ({source.weight}) and epochs ({source.epochs}), and weight is tokens x epochs; "
                "name one of them: weight=null works"
            )
        if by_epochs is not None and source.epochs is None:
            raise UserError(
                f"{name}[{index}].epochs (None, with weight {source.weight}) must be stated, since {name}"
                f"[{by_epochs}] states it: all sources of a mixture use weight, or all use epochs; weight=null with "
                "epochs=1.0 works"
            )
        for share in ("weight", "epochs"):
            value = getattr(source, share)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"{name}[{index}].{share} ({value}) must be above 0 and finite; 1.0 works")


def _check_times(train: TrainConfig) -> None:
    """Refuse a walltime that leaves no time to train, and limits that are none.

    Raises: UserError naming the first broken rule.
    """
    if train.walltime_margin_s < 0:
        raise UserError(f"train.walltime_margin_s ({train.walltime_margin_s}) must not be negative; 120 works")
    if train.walltime_s is not None and train.walltime_s <= train.walltime_margin_s:
        raise UserError(
            f"train.walltime_s ({train.walltime_s}) must be above train.walltime_margin_s ({train.walltime_margin_s}), which is "
            f"kept for the last checkpoint, or no time is left to train; train.walltime_s={train.walltime_margin_s + 3600} works"
        )
    for field in fields(train.watchdog):
        limit = getattr(train.watchdog, field.name)
        if limit is not None and not 0 <= limit < math.inf:
            raise UserError(
                f"train.watchdog.{field.name} ({limit}) must be finite and not negative, in seconds; {field.default} works, and "
                "null for no limit"
            )


def _check_spikes(spikes: SpikeConfig) -> None:
    """Refuse a detector that could find nothing, or that would call every step a spike.

    Raises: UserError naming the first broken rule.
    """
    if not 2 <= spikes.window_steps <= LARGEST_WINDOW:
        raise UserError(
            f"train.spikes.window_steps ({spikes.window_steps}) must be from 2, so that there is a standard deviation, to "
            f"{LARGEST_WINDOW}; 128 works with train.spikes.min_steps=64"
        )
    if not 2 <= spikes.min_steps <= spikes.window_steps:
        raise UserError(
            f"train.spikes.min_steps ({spikes.min_steps}) must be from 2 to train.spikes.window_steps ({spikes.window_steps}), the "
            f"most steps there can be; train.spikes.min_steps={max(2, spikes.window_steps // 2)} works"
        )
    if not 0 < spikes.z_score < math.inf:
        raise UserError(
            f"train.spikes.z_score ({spikes.z_score}) must be above 0 and finite; 6.0 works, and train.spikes=null looks for none"
        )
    if spikes.max_skipped_spikes < 0:
        raise UserError(
            f"train.spikes.max_skipped_spikes ({spikes.max_skipped_spikes}) must not be negative; 0 skips none"
        )
