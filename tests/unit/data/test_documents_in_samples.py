"""Where documents start inside samples, and what follows: packed starts, positions, which labels count."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from pretrain.data.batch import MicroBatch, micro_batch, train_micro_batches, validation_micro_batches
from pretrain.data.documents import Boundaries, packed_starts, positions_in_documents, predictable
from pretrain.data.read import TrainData
from pretrain.data.reader import open_reader
from pretrain.data.sources import open_sources
from pretrain.data.validation import ValidationSamples
from pretrain.parallel.world import World

MIDDLE = World(
    rank=0, size=1, device=torch.device("cpu"), tp_rank=0, pp_rank=1, dp_rank=0,
    tensor_model_parallel_size=1, pipeline_model_parallel_size=3, data_parallel_size=1,
)  # fmt: skip
FIRST = replace(MIDDLE, pp_rank=0)


@pytest.fixture(scope="module")
def run(small_run: Path) -> RunConfig:
    return load_run(small_run, ["data.document_mask=true"])


@pytest.fixture(scope="module")
def data(run: RunConfig) -> TrainData:
    return TrainData(open_sources(run), run.data)


def test_starts_are_those_of_the_shards_index(data: TrainData) -> None:
    found = 0
    places = data.places(np.arange(400))
    for source, chunk_start, starts in zip(*places, data.document_starts(*places), strict=True):
        offsets = data.sources.train[source].shard.document_offsets[:-1]
        inside = offsets[(offsets > chunk_start) & (offsets <= chunk_start + 64)]
        assert starts.tolist() == (inside - chunk_start).tolist()
        found += len(inside)
    assert found > 4, "some samples must hold a boundary"


def test_a_document_that_starts_inside_a_row_begins_again_at_position_0_and_is_not_predicted() -> None:
    rows = torch.stack([torch.arange(10, 15), torch.arange(20, 25)])
    starts = [np.array([1, 3]), np.array([4])]  # the last one is a label alone
    batch = micro_batch(rows, torch.device("cpu"), seq_length=4, pad_id=3, has_padding=False, document_starts=starts)
    assert batch.document_starts is not None and batch.document_starts.dtype == torch.int32
    assert batch.document_starts.tolist() == [0, 1, 3, 4, 8]
    assert batch.position_ids.tolist() == [[0, 0, 1, 0], [0, 1, 2, 3]]
    assert batch.loss_mask.tolist() == [[0, 1, 0, 1], [1, 1, 1, 0]]
    assert batch.position_ids.dtype == torch.int64 and batch.loss_mask.dtype == torch.float32


def test_padding_is_never_predicted_and_rows_keep_their_weight() -> None:
    rows = torch.tensor([[3, 5, 3, 6, 3]] * 2)
    batch = micro_batch(rows, torch.device("cpu"), seq_length=4, pad_id=3, has_padding=True, row_weights=[1.0, 0.0])
    assert batch.loss_mask.tolist() == [[1, 0, 1, 0], [0, 0, 0, 0]]
    assert batch.document_starts is None and batch.position_ids.tolist() == [[0, 1, 2, 3]] * 2


@given(data=st.data(), seq_length=st.integers(1, 9), batch=st.integers(1, 4))
def test_random_documents_equal_a_walk_over_every_position(data: st.DataObject, seq_length: int, batch: int) -> None:
    positions = st.sets(st.integers(1, seq_length)).map(sorted)
    rows = [data.draw(positions) for _ in range(batch)]
    starts = [np.array(row, dtype=np.int64) for row in rows]
    packed = packed_starts(starts, seq_length)
    ids, expected_positions, expected_counted, expected_packed = -1, [], [], []
    for row in rows:
        for position in range(seq_length):
            if position == 0 or position in row:
                ids, since = ids + 1, 0
                expected_packed.append(len(expected_positions))
            expected_positions.append(since)
            expected_counted.append(position + 1 not in row)
            since += 1
    assert packed.dtype == np.int32 and packed.tolist() == [*expected_packed, batch * seq_length]
    found = positions_in_documents(packed, seq_length)
    assert (
        found.shape == (batch, seq_length) and found.dtype == np.int64 and found.ravel().tolist() == expected_positions
    )
    assert predictable(starts, seq_length).ravel().tolist() == expected_counted


def test_a_stage_in_the_middle_gets_the_boundaries_and_reads_no_tokens(run: RunConfig) -> None:
    batches = {}
    for world in (FIRST, MIDDLE):
        sources = open_sources(run)
        with open_reader(sources, run, world) as reader:
            of_training = list(train_micro_batches(reader, run.train, world, consumed_samples=40, global_batch_size=8))
        validation = list(
            validation_micro_batches(
                ValidationSamples(sources.validation[:1], run.data, samples_per_source=5),
                run.data,
                run.train,
                world,
                count=3,
            )
        )
        batches[world.pp_rank] = of_training + validation
        shards = [source.shard for source in (*sources.train, sources.validation[0])]
        read = ["tokens" in vars(shard) for shard in shards]
        assert any(read) == (world is FIRST), "the map of the tokens is opened where they are read, and there alone"
        assert not any("document_offsets" in vars(shard) for shard in shards), "no whole index"
    for first, middle in zip(batches[0], batches[1], strict=True):
        assert isinstance(first, MicroBatch) and isinstance(middle, Boundaries)
        assert first.document_starts is not None and torch.equal(first.document_starts, middle.document_starts)


def test_without_the_mask_nothing_is_kept_apart(run: RunConfig) -> None:
    plain = replace(run, data=replace(run.data, document_mask=False))
    with open_reader(open_sources(plain), plain, FIRST) as reader:
        for batch in train_micro_batches(reader, plain.train, FIRST, consumed_samples=0, global_batch_size=8):
            assert isinstance(batch, MicroBatch) and batch.document_starts is None and batch.loss_mask.min() == 1
