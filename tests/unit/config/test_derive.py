"""Integers that follow from a configuration."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fanal.run_progress import Standing
from pretrain.config.derive import (
    consumed_samples_at,
    data_parallel_size,
    global_batch_size_at,
    kv_channels,
    lr_decay_samples,
    mixture_weight,
    model_parallel_size,
    num_microbatches,
    padded_vocab_size,
    train_samples,
    world_size,
)
from pretrain.config.schema import BatchRampConfig, ModelConfig, OptimConfig, ParallelConfig, SourceConfig, TrainConfig
from pretrain.model.families.sizes import num_parameters

MODEL = ModelConfig(
    num_layers=2, hidden_size=8, ffn_hidden_size=16, num_attention_heads=4, num_query_groups=2, vocab_size=130
)


@pytest.mark.parametrize(
    ("vocab", "multiple", "padded"), [(130, 128, 256), (128, 128, 128), (1, 64, 64), (130, 1, 130)]
)
def test_the_vocabulary_is_padded_to_a_multiple_of_its_own(vocab: int, multiple: int, padded: int) -> None:
    assert padded_vocab_size(replace(MODEL, vocab_size=vocab, make_vocab_size_divisible_by=multiple)) == padded


def test_micro_batches_divide_the_global_batch() -> None:
    assert num_microbatches(global_batch_size=24, micro_batch_size=2, data_parallel_size=3) == 4
    with pytest.raises(
        ValueError, match=r"\(25\) must be a multiple of .*\(2\) \* data_parallel_size \(3\) = 6; the next one is 30"
    ):
        num_microbatches(global_batch_size=25, micro_batch_size=2, data_parallel_size=3)


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
    assert train_samples(train) == consumed


def test_the_schedule_spans_the_run_unless_told_otherwise() -> None:
    train = TrainConfig(train_steps=10, global_batch_size=8, micro_batch_size=1)
    assert lr_decay_samples(OptimConfig(lr=1.0), train) == 80
    assert lr_decay_samples(OptimConfig(lr=1.0, lr_decay_samples=33), train) == 33


def test_a_resume_with_another_batch_counts_the_samples_so_far_and_those_of_the_steps_left() -> None:
    train = TrainConfig(train_steps=16, global_batch_size=4, micro_batch_size=1)
    since = Standing(step=8, consumed_samples=64)  # with a batch of 8
    assert train_samples(train, since) == lr_decay_samples(OptimConfig(lr=1.0), train, since) == 64 + 8 * 4 == 96
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
    end = train_samples(train, Standing(done, consumed))
    for step in range(done, done + more):
        assert train_samples(train, Standing(step, consumed)) == end
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


def test_a_layout_counts_its_ranks_and_ranks_their_replicas() -> None:
    layout = ParallelConfig(tensor_model_parallel_size=4, pipeline_model_parallel_size=2)
    assert (model_parallel_size(layout), world_size(layout)) == (8, 8)
    assert world_size(replace(layout, data_parallel_size=3)) == 24
    assert data_parallel_size(layout, num_ranks=40) == 5
    with pytest.raises(ValueError, match=r"3 ranks cannot hold whole replicas of .* = 8 ranks; start 8 or 16 ranks"):
        data_parallel_size(layout, num_ranks=3)


def test_a_head_s_size_may_differ_from_its_share_of_the_hidden_size() -> None:
    assert kv_channels(MODEL) == 2
    wide = replace(MODEL, kv_channels=4)
    assert kv_channels(wide) == 4
    assert num_parameters(wide) - num_parameters(MODEL) == 2 * 8 * 2 * (2 * 4 + 2 * 2), "two more channels in 12 heads"


@pytest.mark.parametrize(("share", "weight"), [({}, 1.0), ({"weight": 0.25}, 0.25), ({"epochs": 1.5}, 701.7e9)])
def test_epochs_are_a_weight_of_tokens_times_passes(share: dict[str, float], weight: float) -> None:
    assert mixture_weight(SourceConfig(prefix="en--web", **share), train_tokens=467_800_000_000) == weight
