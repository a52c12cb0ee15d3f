"""Steps and samples: the batch of each step, the samples at a step, the step at a sample, and where a run and its schedule end.

Whatever else counts steps or samples asks here. Integers alone; nothing here reads a file or knows a rank.
"""

from bisect import bisect_right
from typing import NamedTuple

from fanal.run_progress import NEW_RUN, Standing
from pretrain.config.schema import BatchRampConfig, OptimConfig, TrainConfig

DECAY_ON_REQUEST = ("constant", "WSD")
"""Values of optim.lr_decay_style whose rate stays until a final decay, so that its beginning can be chosen."""


class BatchStage(NamedTuple):
    """Samples that are trained on with one batch."""

    global_batch_size: int
    end_sample: int | None
    """First sample after them; None if no other batch follows."""


def ramp_stages(ramp: BatchRampConfig, global_batch_size: int) -> int:
    """Increments between the first and the full batch size."""
    return (global_batch_size - ramp.start) // ramp.increment


def batch_stage_at(train: TrainConfig, consumed_samples: int) -> BatchStage:
    """Return the batch of the step that starts at ``consumed_samples``, and how far it reaches: the one place that says so.

    A ramp is split into equal parts of samples, one per increment, as in Megatron's ``rampup_batch_size``.
    """
    ramp, stages = train.batch_ramp, train.batch_stages
    number = bisect_right(stages, consumed_samples, key=lambda stage: stage.start_sample)
    end = stages[number].start_sample if number < len(stages) else None
    if number:
        return BatchStage(stages[number - 1].global_batch_size, end)
    if ramp is None or consumed_samples >= ramp.samples:
        return BatchStage(train.global_batch_size, end)
    parts = ramp_stages(ramp, train.global_batch_size)
    part = consumed_samples * parts // ramp.samples  # consumed // (samples / parts), kept in integers
    return BatchStage(ramp.start + part * ramp.increment, -(-(part + 1) * ramp.samples // parts))


def global_batch_size_at(train: TrainConfig, consumed_samples: int) -> int:
    """Samples of the next optimizer step after ``consumed_samples``."""
    return batch_stage_at(train, consumed_samples).global_batch_size


def last_batch_size(train: TrainConfig) -> int:
    """Samples of a step once no other batch follows: the full batch, after ramp and stages."""
    return train.batch_stages[-1].global_batch_size if train.batch_stages else train.global_batch_size


def has_one_batch(train: TrainConfig) -> bool:
    """Whether every step takes the same batch."""
    return train.batch_ramp is None and not train.batch_stages


def consumed_samples_at(train: TrainConfig, step: int, since: Standing = NEW_RUN) -> int:
    """Samples consumed when ``step`` optimizer steps are done, those after ``since`` with this batch; one loop turn per stage."""
    done, consumed = since.step, since.consumed_samples
    while done < step:
        batch, end = batch_stage_at(train, consumed)
        steps = step - done if end is None else min(step - done, -(-(end - consumed) // batch))
        consumed, done = consumed + steps * batch, done + steps
    return consumed


def step_at(train: TrainConfig, samples: int, since: Standing = NEW_RUN) -> int:
    """Steps that are done when ``samples`` samples are consumed, or for the first time more; never fewer than at ``since``."""
    done, consumed = since.step, since.consumed_samples
    while consumed < samples:
        batch, end = batch_stage_at(train, consumed)
        until = samples if end is None else min(samples, end)
        steps = -(-(until - consumed) // batch)
        consumed, done = consumed + steps * batch, done + steps
    return done


def decay_start_sample(optim: OptimConfig, since: Standing = NEW_RUN) -> int | None:
    """First sample of a final decay that has begun, or that the config states; None where it is counted back, or not known yet."""
    if optim.lr_decay_style not in DECAY_ON_REQUEST or optim.lr_wsd_decay_samples is None:
        return None
    return optim.lr_wsd_decay_start_sample if since.decay_start_sample is None else since.decay_start_sample


def last_step(optim: OptimConfig, train: TrainConfig, since: Standing = NEW_RUN) -> int:
    """Last step of the run: train.train_steps, or the one with which a final decay ends that began at a sample of its own."""
    start = decay_start_sample(optim, since)
    if start is None:
        return train.train_steps
    assert optim.lr_wsd_decay_samples is not None, "without it there is no start"
    return min(train.train_steps, step_at(train, start + optim.lr_wsd_decay_samples, since))


def train_samples(optim: OptimConfig, train: TrainConfig, since: Standing = NEW_RUN) -> int:
    """Samples the whole run consumes: those up to ``since``, whatever its batch was then, and those of the steps that are left."""
    return consumed_samples_at(train, last_step(optim, train, since), since)


def lr_decay_samples(optim: OptimConfig, train: TrainConfig, since: Standing = NEW_RUN) -> int:
    """Samples, warm-up included, after which the learning rate is min_lr.

    The same from every point of a run whose batch and steps stay as they are; a resume with others has another one, unless the
    final decay has begun at a sample of its own.
    """
    start = decay_start_sample(optim, since)
    if start is not None:
        assert optim.lr_wsd_decay_samples is not None, "without it there is no start"
        return start + optim.lr_wsd_decay_samples
    return optim.lr_decay_samples if optim.lr_decay_samples is not None else train_samples(optim, train, since)
