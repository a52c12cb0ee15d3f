"""Micro batches of a rank: which samples, in which shape, and that the layout does not choose them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from pretrain.data.batch import MicroBatch, TrainData, held_out_micro_batches, train_micro_batches
from pretrain.data.sources import Source, open_sources
from pretrain.parallel.world import World

ALONE = World(
    rank=0, size=1, device=torch.device("cpu"), tp_rank=0, pp_rank=0, dp_rank=0,
    tensor_model_parallel_size=1, pipeline_model_parallel_size=1, data_parallel_size=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def run(small_run: Path) -> RunConfig:
    return load_run(small_run)


@pytest.fixture(scope="module")
def sources(run: RunConfig) -> tuple[list[Source], list[Source]]:
    return open_sources(run)


@pytest.fixture(scope="module")
def data(run: RunConfig, sources: tuple[list[Source], list[Source]]) -> TrainData:
    return TrainData(sources[0], seed=run.data.seed)


def rows_of(batches: list[MicroBatch]) -> list[tuple[int, ...]]:
    return [tuple(row) for batch in batches for row in batch.tokens.tolist()]


def step_of_8(data: TrainData, run: RunConfig, world: World, consumed: int = 100) -> list[MicroBatch]:
    batches = list(train_micro_batches(data, run, world, consumed_samples=consumed, global_batch_size=8))
    assert all(batch is not None for batch in batches)
    return batches  # type: ignore[return-value]


def test_a_step_holds_the_samples_that_follow_those_consumed(data: TrainData, run: RunConfig) -> None:
    batches = step_of_8(data, run, ALONE)
    assert [batch.tokens.shape for batch in batches] == [(2, 64)] * 4
    assert rows_of(batches) == [tuple(data.sample(number)[:-1].tolist()) for number in range(100, 108)]
    assert all(batch.loss_mask.dtype == torch.float32 and batch.loss_mask.min() == 1 for batch in batches)


@pytest.mark.parametrize("replicas", [2, 4])
def test_the_batch_as_a_set_does_not_depend_on_the_replicas(data: TrainData, run: RunConfig, replicas: int) -> None:
    shared = [step_of_8(data, run, replace(ALONE, data_parallel_size=replicas, dp_rank=r)) for r in range(replicas)]
    assert [len(batches) for batches in shared] == [4 // replicas] * replicas
    assert sorted(row for batches in shared for row in rows_of(batches)) == sorted(rows_of(step_of_8(data, run, ALONE)))


def test_tensor_and_pipeline_ranks_of_a_replica_read_the_same(data: TrainData, run: RunConfig) -> None:
    last = replace(ALONE, tp_rank=1, tensor_model_parallel_size=2, pp_rank=2, pipeline_model_parallel_size=3)
    assert rows_of(step_of_8(data, run, last)) == rows_of(step_of_8(data, run, ALONE))


def test_a_stage_in_the_middle_reads_nothing(run: RunConfig, sources: tuple[list[Source], list[Source]]) -> None:
    middle = replace(ALONE, pp_rank=1, pipeline_model_parallel_size=3)
    nothing = TrainData(sources[0], seed=1)
    nothing.sources = []  # reading would fail
    assert list(train_micro_batches(nothing, run, middle, consumed_samples=0, global_batch_size=8)) == [None] * 4
    assert list(held_out_micro_batches(sources[1][0], run, middle, num_samples=5, count=3)) == [None] * 3


def test_two_steps_in_a_row_share_no_sample(data: TrainData, run: RunConfig) -> None:
    assert not set(rows_of(step_of_8(data, run, ALONE, 100))) & set(rows_of(step_of_8(data, run, ALONE, 108)))


@pytest.mark.parametrize("replicas", [1, 2])
def test_held_out_samples_count_once_each_and_the_rows_beyond_count_nothing(
    run: RunConfig, sources: tuple[list[Source], list[Source]], replicas: int
) -> None:
    source, samples, counted = sources[1][0], 5, []
    for rank in range(replicas):
        world = replace(ALONE, data_parallel_size=replicas, dp_rank=rank)
        for batch in held_out_micro_batches(source, run, world, num_samples=samples, count=4 // replicas):
            assert batch is not None
            weights = batch.loss_mask.mean(dim=1).tolist()
            counted += [tuple(row) for row, weight in zip(batch.tokens.tolist(), weights, strict=True) if weight == 1.0]
            assert set(weights) <= {0.0, 1.0}
    assert sorted(counted) == sorted(tuple(source.chunk(number)[:-1].tolist()) for number in range(samples))


def test_a_sample_is_the_same_however_often_and_in_which_order_it_is_asked_for(data: TrainData) -> None:
    forwards = [data.sample(number).copy() for number in range(300, 320)]
    backwards = [data.sample(number) for number in reversed(range(300, 320))]
    assert all(np.array_equal(left, right) for left, right in zip(forwards, reversed(backwards), strict=True))
