"""Micro batches of a rank: which samples, in which shape, and that the layout does not choose them."""

import gc
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pretrain.config.load import load_run
from pretrain.config.schema import BatchRampConfig, RunConfig
from pretrain.data.batch import MicroBatch, micro_batch, train_micro_batches, validation_micro_batches
from pretrain.data.read import TrainData
from pretrain.data.reader import HostBatch, TrainReader, open_reader
from pretrain.data.rows import DamagedTokenError, RowReader
from pretrain.data.sources import Sources, open_sources
from pretrain.data.validation import ValidationSamples
from pretrain.parallel.world import World
from tests.unit.data.shards import copy_shard, write_token

ALONE = World(
    rank=0, size=1, device=torch.device("cpu"), tp_rank=0, pp_rank=0, dp_rank=0,
    tensor_model_parallel_size=1, pipeline_model_parallel_size=1, data_parallel_size=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def run(small_run: Path) -> RunConfig:
    return load_run(small_run)


@pytest.fixture(scope="module")
def sources(run: RunConfig) -> Sources:
    return open_sources(run)


@pytest.fixture(scope="module")
def data(run: RunConfig, sources: Sources) -> TrainData:
    return TrainData(sources, run.data)


def rows_of(batches: list[MicroBatch]) -> list[tuple[int, ...]]:
    return [tuple(row) for batch in batches for row in batch.tokens.tolist()]


def step_of_8(data: TrainData, run: RunConfig, world: World, consumed: int = 40) -> list[MicroBatch]:
    with open_reader(data.sources, run, world) as reader:
        batches = list(train_micro_batches(reader, run.train, world, consumed_samples=consumed, global_batch_size=8))
    assert all(batch is not None for batch in batches)
    return batches  # type: ignore[return-value]


def test_a_step_holds_the_samples_that_follow_those_consumed(data: TrainData, run: RunConfig) -> None:
    batches = step_of_8(data, run, ALONE)
    assert [batch.tokens.shape for batch in batches] == [(2, 64)] * 4
    assert rows_of(batches) == [tuple(data.sample(number)[:-1].tolist()) for number in range(40, 48)]
    assert all(batch.loss_mask.dtype == torch.float32 and batch.loss_mask.min() == 1 for batch in batches)


@pytest.mark.parametrize("replicas", [2, 4])
def test_the_batch_as_a_set_does_not_depend_on_the_replicas(data: TrainData, run: RunConfig, replicas: int) -> None:
    shared = [step_of_8(data, run, replace(ALONE, data_parallel_size=replicas, dp_rank=r)) for r in range(replicas)]
    assert [len(batches) for batches in shared] == [4 // replicas] * replicas
    assert sorted(row for batches in shared for row in rows_of(batches)) == sorted(rows_of(step_of_8(data, run, ALONE)))


def test_tensor_and_pipeline_ranks_of_a_replica_read_the_same(data: TrainData, run: RunConfig) -> None:
    last = replace(ALONE, tp_rank=1, tensor_model_parallel_size=2, pp_rank=2, pipeline_model_parallel_size=3)
    assert rows_of(step_of_8(data, run, last)) == rows_of(step_of_8(data, run, ALONE))


def five_of(sources: Sources, run: RunConfig, *, num_sources: int = 1) -> ValidationSamples:
    return ValidationSamples(sources.validation[:num_sources], run.data, samples_per_source=5)


def test_a_stage_in_the_middle_reads_nothing(run: RunConfig, sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    middle = replace(ALONE, pp_rank=1, pipeline_model_parallel_size=3)
    monkeypatch.delattr(TrainReader, "batch")  # reading would fail
    with open_reader(sources, run, middle) as reader:
        assert (
            list(train_micro_batches(reader, run.train, middle, consumed_samples=0, global_batch_size=8)) == [None] * 4
        )
    assert list(validation_micro_batches(five_of(sources, run), run.data, run.train, middle, count=3)) == [None] * 3


def test_two_steps_in_a_row_share_no_sample(data: TrainData, run: RunConfig) -> None:
    assert not set(rows_of(step_of_8(data, run, ALONE, 40))) & set(rows_of(step_of_8(data, run, ALONE, 48)))


@pytest.mark.parametrize("replicas", [1, 2])
def test_validation_samples_count_once_each_and_the_rows_beyond_count_nothing(
    run: RunConfig, sources: Sources, replicas: int
) -> None:
    source, samples, counted = sources.validation[0], 5, []
    for rank in range(replicas):
        world = replace(ALONE, data_parallel_size=replicas, dp_rank=rank)
        for batch in validation_micro_batches(five_of(sources, run), run.data, run.train, world, count=4 // replicas):
            assert batch is not None
            weights = batch.loss_mask.mean(dim=1).tolist()
            counted += [tuple(row) for row, weight in zip(batch.tokens.tolist(), weights, strict=True) if weight == 1.0]
            assert set(weights) <= {0.0, 1.0}
    starts = [source.start_token(number) for number in range(samples)]
    assert sorted(counted) == sorted(tuple(source.shard.tokens[start : start + 64].tolist()) for start in starts)


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_validation_batch_holds_samples_of_several_sources_and_counts_each_for_its_domain(
    run: RunConfig, sources: Sources, replicas: int
) -> None:
    samples, counted = five_of(sources, run, num_sources=2), []
    assert (samples.num_samples, samples.domains) == (10, ("code", "prose"))
    for rank in range(replicas):
        world = replace(ALONE, data_parallel_size=replicas, dp_rank=rank)
        for batch in validation_micro_batches(samples, run.data, run.train, world, count=-(-10 // (2 * replicas))):
            assert isinstance(batch, MicroBatch)
            rows = zip(batch.tokens.tolist(), batch.domain_ids.tolist(), batch.loss_mask[:, 0].tolist(), strict=True)
            counted += [(samples.domains[number], tuple(row)) for row, number, weight in rows if weight]
    expected = [
        (source.domain, tuple(source.shard.tokens[start : start + 64].tolist()))
        for source in sources.validation
        for start in map(source.start_token, range(5))
    ]
    assert sorted(counted) == sorted(expected)


def test_a_sample_is_the_same_however_often_and_in_which_order_it_is_asked_for(data: TrainData) -> None:
    forwards = [data.sample(number).copy() for number in range(300, 320)]
    backwards = [data.sample(number) for number in reversed(range(300, 320))]
    assert all(np.array_equal(left, right) for left, right in zip(forwards, reversed(backwards), strict=True))


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4, 8])
@pytest.mark.parametrize("replicas", [1, 2, 8])
def test_every_layout_and_micro_batch_size_reads_the_steps_of_the_run(
    data: TrainData, run: RunConfig, micro_batch_size: int, replicas: int
) -> None:
    if micro_batch_size * replicas > 8:
        return
    changed = replace(run, train=replace(run.train, micro_batch_size=micro_batch_size))
    for consumed in (0, 8):
        found = []
        for rank in range(replicas):
            world = replace(ALONE, data_parallel_size=replicas, dp_rank=rank)
            found += rows_of(step_of_8(data, changed, world, consumed))
        expected = [tuple(data.sample(number)[:-1].tolist()) for number in range(consumed, consumed + 8)]
        assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("prefetch_bytes", [0, 2 * (4 + 65) * 2 + 32, 8 * (2 * (4 + 65) * 2 + 32), 10**6])
def test_reading_ahead_changes_nothing(data: TrainData, run: RunConfig, prefetch_bytes: int) -> None:
    changed = replace(run, data=replace(run.data, prefetch_bytes=prefetch_bytes))
    with open_reader(data.sources, changed, ALONE) as reader:
        for consumed in (0, 8, 16, 56, 64, 8):  # in a row, after a gap, and back
            batches = list(
                train_micro_batches(
                    reader, changed.train, ALONE, consumed_samples=consumed, global_batch_size=8, steps_left=5
                )
            )
            expected = [tuple(data.sample(number)[:-1].tolist()) for number in range(consumed, consumed + 8)]
            assert rows_of(batches) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("num_batches", [1, 2, 7, 40])
def test_batches_that_wait_hold_no_more_than_the_budget(data: TrainData, run: RunConfig, num_batches: int) -> None:
    budget = num_batches * (run.train.micro_batch_size * ((4 + 65) * 2 + 16))
    changed = replace(run, data=replace(run.data, prefetch_bytes=budget))
    with open_reader(data.sources, changed, ALONE) as reader:
        reader.begin_step(consumed_samples=0, global_batch_size=8, steps_left=100)
        kept, before, deadline = [], -1, time.monotonic() + 30
        for index in range(4):
            kept.append(reader.batch(index))
            while before != (before := held_bytes() - sum(map(size_of, kept))) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert before <= budget
    assert num_batches < 7 or before > budget / 3, "most of the budget is used"


def size_of(batch: HostBatch) -> int:
    return batch.contents.nbytes + batch.sources.nbytes + batch.places.nbytes


def held_bytes() -> int:
    # By its type alone: another test's proxy may be dead, and would be asked for its class.
    return sum(size_of(thing) for thing in gc.get_objects() if type(thing) is HostBatch)


def test_a_batch_ramp_is_read_ahead_step_by_step(run: RunConfig, sources: Sources, data: TrainData) -> None:
    ramp = BatchRampConfig(start=4, increment=2, samples=24)
    changed = replace(run, train=replace(run.train, batch_ramp=ramp))
    consumed, readers = 0, []
    with open_reader(sources, changed, ALONE) as reader:
        for number, size in enumerate((4, 4, 4, 6, 6, 8)):
            batches = train_micro_batches(
                reader, changed.train, ALONE, consumed_samples=consumed, global_batch_size=size, steps_left=6 - number
            )
            expected = [tuple(data.sample(number)[:-1].tolist()) for number in range(consumed, consumed + size)]
            assert rows_of(list(batches)) == expected  # type: ignore[arg-type]
            readers.append(reader._ahead)
            consumed += size
    assert all(ahead is readers[0] for ahead in readers), "what was read ahead was what the ramp wanted"


def test_labels_are_the_tokens_one_position_on_and_masked_rows_count_nothing() -> None:
    rows = torch.tensor([[0, 1, 2, 3, 4], [10, 11, 12, 13, 14]])
    batch = micro_batch(rows, torch.device("cpu"), seq_length=4, pad_id=99, has_padding=False, row_weights=[1.0, 0.0])
    assert batch.tokens.tolist() == [[0, 1, 2, 3], [10, 11, 12, 13]]
    assert batch.labels.tolist() == [[1, 2, 3, 4], [11, 12, 13, 14]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3]] * 2
    assert batch.loss_mask.tolist() == [[1.0] * 4, [0.0] * 4]
    assert batch.tokens.dtype == batch.labels.dtype == torch.int64


@pytest.mark.parametrize("side", ["train", "validation"])
@pytest.mark.parametrize("token_id", [2000, 65535])
def test_an_id_that_no_token_has_is_refused_with_its_shard_and_place(
    run: RunConfig, small_run: Path, data_folder: Path, tmp_path: Path, side: str, token_id: int
) -> None:
    prefix = copy_shard(data_folder / "shards" / "train-code", tmp_path / "bad")
    other = data_folder / "shards" / "validation-code"
    lists = {"train": f"[{{prefix: {other}}}]", "validation": "[]", side: f"[{{prefix: {prefix}}}]"}
    lists["verify"] = "null"  # which may find it first
    changed = load_run(small_run, [f"data.{key}={value}" for key, value in lists.items()])
    start = TrainData(open_sources(changed), changed.data).places(np.array([2]))[1][0] if side == "train" else 64
    write_token(prefix, start + 5, token_id)
    sources = open_sources(changed)
    message = (
        rf"shard {prefix} holds id {token_id} at token {start + 5}, expected 0 to 1999: .* changed after its manifest"
    )
    with pytest.raises(DamagedTokenError, match=message), open_reader(sources, changed, ALONE) as reader:
        if side == "train":
            list(train_micro_batches(reader, changed.train, ALONE, consumed_samples=0, global_batch_size=8))
        else:
            list(validation_micro_batches(five_of(sources, changed), changed.data, changed.train, ALONE, count=2))


def test_batches_before_a_damaged_id_are_trained_on(
    run: RunConfig, small_run: Path, data_folder: Path, tmp_path: Path
) -> None:
    prefix = copy_shard(data_folder / "shards" / "train-code", tmp_path / "bad")
    changed = load_run(small_run, [f"data.train=[{{prefix: {prefix}}}]", "data.validation=[]", "data.verify=null"])
    data = TrainData(open_sources(changed), changed.data)
    write_token(prefix, int(data.places(np.array([17]))[1][0]) + 5, 2000)
    with open_reader(open_sources(changed), changed, ALONE) as reader:
        for consumed in (0, 8):
            taken = train_micro_batches(
                reader, changed.train, ALONE, consumed_samples=consumed, global_batch_size=8, steps_left=9
            )
            assert len(rows_of(list(taken))) == 8  # type: ignore[arg-type]
        with pytest.raises(DamagedTokenError, match="holds id 2000"):
            list(train_micro_batches(reader, changed.train, ALONE, consumed_samples=16, global_batch_size=8))


def test_an_id_too_large_for_the_vocabulary_s_type_is_refused_too(run: RunConfig, sources: Sources) -> None:
    wide = sources.train[0].shard.tokens.astype(np.int32)
    wide[70] = 65536 + 5  # which is 5 in two bytes
    shard = SimpleNamespace(tokens=wide, dtype=wide.dtype, prefix="wide")
    reader = RowReader([SimpleNamespace(shard=shard)], seq_length=64, vocab_size=2000)  # type: ignore[list-item]
    zeros, out = np.zeros(1, np.int64), np.empty((1, 65), np.uint16)
    assert reader.read(zeros, zeros, out).tolist() == [wide[:65].tolist()]
    with pytest.raises(DamagedTokenError, match="wide holds id 65541 at token 70"):
        reader.read(zeros, zeros + 10, out)


def test_no_batch_can_change_what_another_one_shares() -> None:
    batch = micro_batch(
        torch.zeros((2, 5), dtype=torch.int64), torch.device("cpu"), seq_length=4, pad_id=3, has_padding=False
    )
    for shared in (batch.loss_mask, batch.position_ids):
        with pytest.raises(RuntimeError, match="single memory location"):
            shared *= 0
