"""Steps and samples: through ramps, stages, a resume with another batch, and a final decay."""

from hypothesis import given, settings
from hypothesis import strategies as st

from fanal.run_progress import Standing
from pretrain.config.schema import BatchRampConfig, OptimConfig, TrainConfig
from pretrain.config.steps import consumed_samples_at, global_batch_size_at, lr_decay_samples, train_samples

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
