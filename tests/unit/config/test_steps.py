"""Steps and samples: through ramps, stages, a resume with another batch, and a final decay."""

from hypothesis import given, settings
from hypothesis import strategies as st

from fanal.run_progress import Standing
from pretrain.config.schema import BatchRampConfig, BatchStageConfig, OptimConfig, TrainConfig
from pretrain.config.steps import (
    consumed_samples_at,
    global_batch_size_at,
    last_step,
    lr_decay_samples,
    step_at,
    train_samples,
)

OPTIM = OptimConfig(lr=1.0)


@given(
    start=st.integers(1, 20),
    increment=st.integers(1, 10),
    stages=st.integers(1, 8),
    samples=st.integers(1, 2000),
    steps=st.integers(0, 300),
)
@settings(deadline=None)
def test_samples_consumed_are_the_sum_of_the_batches(
    start: int, increment: int, stages: int, samples: int, steps: int
) -> None:
    ramp = BatchRampConfig(start=start, increment=increment, samples=samples)
    train = TrainConfig(
        train_steps=steps, global_batch_size=start + stages * increment, micro_batch_size=1, batch_ramp=ramp
    )
    consumed = 0
    for step in range(steps):
        assert consumed_samples_at(train, step) == consumed
        batch = global_batch_size_at(train, consumed)
        assert start <= batch <= train.global_batch_size and (batch - start) % increment == 0
        consumed += batch
    assert train_samples(OPTIM, train) == consumed


def test_the_schedule_spans_the_run_unless_told_otherwise() -> None:
    train = TrainConfig(train_steps=10, global_batch_size=8, micro_batch_size=1)
    assert lr_decay_samples(OptimConfig(lr=1.0), train) == 80
    assert lr_decay_samples(OptimConfig(lr=1.0, lr_decay_samples=33), train) == 33


def test_a_resume_with_another_batch_counts_the_samples_so_far_and_those_of_the_steps_left() -> None:
    train = TrainConfig(train_steps=16, global_batch_size=4, micro_batch_size=1)
    since = Standing(step=8, consumed_samples=64)  # with a batch of 8
    assert train_samples(OPTIM, train, since) == lr_decay_samples(OptimConfig(lr=1.0), train, since) == 64 + 8 * 4 == 96
    assert lr_decay_samples(OptimConfig(lr=1.0, lr_decay_samples=33), train, since) == 33


@given(
    stages=st.integers(0, 8),
    samples=st.integers(1, 2000),
    consumed=st.integers(0, 3000),
    done=st.integers(0, 50),
    more=st.integers(0, 200),
)
@settings(deadline=None)
def test_the_end_of_a_run_is_the_same_from_every_point_of_it(
    stages: int, samples: int, consumed: int, done: int, more: int
) -> None:
    ramp = BatchRampConfig(start=2, increment=3, samples=samples) if stages else None
    train = TrainConfig(train_steps=done + more, global_batch_size=2 + 3 * stages, micro_batch_size=1, batch_ramp=ramp)
    end = train_samples(OPTIM, train, Standing(done, consumed))
    for step in range(done, done + more):
        assert train_samples(OPTIM, train, Standing(step, consumed)) == end
        consumed += global_batch_size_at(train, consumed)
    assert consumed == end


@given(consumed=st.integers(0, 20_000), stages=st.integers(1, 12))
@settings(deadline=None)
def test_a_ramp_is_megatron_s_ramp(consumed: int, stages: int) -> None:
    """megatron divides in floating point: samples are a multiple of the stages here, so that it is exact."""
    from megatron.core.num_microbatches_calculator import RampupBatchsizeNumMicroBatchesCalculator

    full, samples = 4 + 2 * stages, 1000 * stages
    theirs = RampupBatchsizeNumMicroBatchesCalculator(full, 1, 1, False, 0, 4, 2, samples)
    theirs.update(consumed, consistency_check=False, verbose=False)
    ramp = BatchRampConfig(start=4, increment=2, samples=samples)
    train = TrainConfig(train_steps=1, global_batch_size=full, micro_batch_size=1, batch_ramp=ramp)
    assert global_batch_size_at(train, consumed) == theirs.get_current_global_batch_size()


def test_without_a_ramp_every_step_takes_the_full_batch() -> None:
    train = TrainConfig(train_steps=10, global_batch_size=8, micro_batch_size=1)
    assert [global_batch_size_at(train, consumed) for consumed in (0, 1, 10**12)] == [8, 8, 8]
    assert consumed_samples_at(train, 10**9) == 8 * 10**9


def made(ramp: int, lengths: list[int], batches: list[int], steps: int) -> TrainConfig:
    """A run with a ramp of so many samples or without one, and stages of these lengths behind it."""
    start, stages = max(1, ramp), []
    for length, batch in zip(lengths, batches, strict=False):
        start += length
        stages.append(BatchStageConfig(start_sample=start, global_batch_size=batch))
    return TrainConfig(
        train_steps=steps, global_batch_size=12, micro_batch_size=1, batch_stages=stages,
        batch_ramp=BatchRampConfig(start=3, increment=3, samples=ramp) if ramp else None,
    )  # fmt: skip


STAGED = st.builds(
    made,
    st.sampled_from([0, 1, 50, 200]),
    st.lists(st.integers(1, 150), max_size=4),
    st.lists(st.integers(1, 40), min_size=4, max_size=4),
    st.integers(1, 80),
)


def batch_by_hand(train: TrainConfig, at: int) -> int:
    """One rule after the other, the last one that holds."""
    batch = train.global_batch_size
    if train.batch_ramp is not None:
        for part in range(3):
            if at < train.batch_ramp.samples * (part + 1) / 3:
                batch = 3 + 3 * part
                break
    for stage in train.batch_stages:
        if at >= stage.start_sample:
            batch = stage.global_batch_size
    return batch


@given(train=STAGED, begins=st.integers(0, 300), done=st.integers(0, 20))
@settings(deadline=None)
def test_steps_and_samples_are_each_other_s_inverse_through_ramps_and_stages(
    train: TrainConfig, begins: int, done: int
) -> None:
    since = Standing(done, begins)
    consumed = begins
    for step in range(done, done + train.train_steps):
        assert consumed_samples_at(train, step, since) == consumed
        assert step_at(train, consumed, since) == step
        assert global_batch_size_at(train, consumed) == batch_by_hand(train, consumed)
        after = consumed + batch_by_hand(train, consumed)
        assert {step_at(train, samples, since) for samples in (consumed + 1, (consumed + 1 + after) // 2, after)} == {
            step + 1
        }
        consumed = after


@given(train=STAGED, start=st.integers(0, 400), length=st.integers(1, 400))
@settings(deadline=None)
def test_the_last_step_of_a_decay_is_the_same_from_every_point_of_the_run(
    train: TrainConfig, start: int, length: int
) -> None:
    optim = OptimConfig(lr=1.0, lr_decay_style="constant", lr_wsd_decay_samples=length, lr_wsd_decay_start_sample=start)
    last, consumed = last_step(optim, train), 0
    assert last <= train.train_steps
    for step in range(last):
        assert consumed < start + length, "no step trains behind the end of the decay"
        since = Standing(step, consumed, start if consumed >= start else None)
        assert last_step(optim, train, since) == last and lr_decay_samples(optim, train, since) == start + length
        consumed += global_batch_size_at(train, consumed)
    assert train_samples(optim, train) == consumed
    assert last == train.train_steps or consumed >= start + length


def test_apertus_doubles_its_batch_after_a_stated_number_of_samples() -> None:
    """2,048 samples of 4,096 tokens a step, and 4,096 from sample 1,072,164,864 on: said as a stage, and as a ramp of one part."""
    doubled = BatchStageConfig(start_sample=1_072_164_864, global_batch_size=4096)
    staged = TrainConfig(train_steps=1_000_000, global_batch_size=2048, micro_batch_size=1, batch_stages=[doubled])
    ramp = BatchRampConfig(start=2048, increment=2048, samples=1_072_164_864)
    ramped = TrainConfig(train_steps=1_000_000, global_batch_size=4096, micro_batch_size=1, batch_ramp=ramp)
    for at in (0, 1_072_164_863, 1_072_164_864, 2_000_000_000):
        assert (
            global_batch_size_at(staged, at)
            == global_batch_size_at(ramped, at)
            == (2048 if at < 1_072_164_864 else 4096)
        )
    assert step_at(staged, 1_072_164_864) == 523_518 and 523_518 * 2048 == 1_072_164_864
    assert train_samples(OPTIM, staged) == train_samples(OPTIM, ramped) == 1_072_164_864 + (1_000_000 - 523_518) * 4096
