"""What a run trains on is the same in every layout, from any step on, and its hash is that of what was read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from pretrain.data.batch import MicroBatch, train_micro_batches
from pretrain.data.forensics import sample_as_trained
from pretrain.data.read import TrainData
from pretrain.data.reader import open_reader
from pretrain.data.sources import open_sources
from pretrain.parallel.world import World
from pretrain.rehearse.batches import micro_batches as rehearsed_micro_batches
from tests.runs.cases import LAYOUTS, Layout
from tests.unit.data.objective_runs import (
    END_OF_DOCUMENT,
    FILL_IN_THE_MIDDLE,
    GOLDFISH,
    MASKED_SPANS,
    SPAN_CORRUPTION,
    write_documents,
)

OBJECTIVES = {
    "rearranged": (FILL_IN_THE_MIDDLE, SPAN_CORRUPTION, GOLDFISH, END_OF_DOCUMENT, "data.document_mask=true"),
    "masked": (MASKED_SPANS, GOLDFISH, END_OF_DOCUMENT),
}


@pytest.fixture(scope="module")
def documents(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_documents(data_folder, tmp_path_factory.mktemp("layouts"), longest=60, marks=True)


def worlds(run: RunConfig) -> list[World]:
    """Every rank of a run's layout."""
    parallel = run.parallel
    tensor, pipeline = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    replicas = parallel.data_parallel_size or 1
    size = tensor * pipeline * replicas
    places = [(dp, pp, tp) for dp in range(replicas) for pp in range(pipeline) for tp in range(tensor)]
    return [
        World(
            rank=rank, size=size, device=torch.device("cpu"), tp_rank=tp, pp_rank=pp, dp_rank=dp,
            tensor_model_parallel_size=tensor, pipeline_model_parallel_size=pipeline, data_parallel_size=replicas,
        )
        for rank, (dp, pp, tp) in enumerate(places)
    ]  # fmt: skip


def trained_on(run: RunConfig, world: World, consumed: int) -> dict[int, tuple[list[int], list[int], list[float]]]:
    """Inputs, labels and loss mask of every sample of a step that this rank reads."""
    found = {}
    with open_reader(open_sources(run), run, world) as reader:
        batches = train_micro_batches(reader, run.train, world, consumed_samples=consumed, global_batch_size=8)
        for index, batch in enumerate(batches):
            assert isinstance(batch, MicroBatch)
            first = consumed + (index * world.data_parallel_size + world.dp_rank) * run.train.micro_batch_size
            for row in range(run.train.micro_batch_size):
                found[first + row] = (
                    batch.tokens[row].tolist(), batch.labels[row].tolist(), batch.loss_mask[row].tolist(),
                )  # fmt: skip
    return found


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@pytest.mark.parametrize("objectives", OBJECTIVES)
def test_every_rank_of_every_layout_has_the_samples_that_can_be_recomputed(
    objectives: str, layout: Layout, small_run: Path, documents: list[str]
) -> None:
    run = load_run(small_run, [*documents, *OBJECTIVES[objectives], *layout.overrides])
    data = TrainData(open_sources(run), run.data)
    for consumed in (0, 8_000):
        expected = {}
        for number in range(consumed, consumed + 8):
            sample = sample_as_trained(data, number)
            expected[number] = sample.tokens[:-1].tolist(), sample.tokens[1:].tolist(), sample.counted.tolist()
        seen: dict[int, set[int]] = {}
        for world in worlds(run):
            found = trained_on(run, world, consumed)
            assert found == {number: expected[number] for number in found}
            for number in found:
                seen.setdefault(number, set()).add(world.rank)
        assert seen.keys() == expected.keys()
        ranks = run.parallel.tensor_model_parallel_size * run.parallel.pipeline_model_parallel_size
        assert all(len(of) == ranks for of in seen.values())
    masks = np.array([mask for _, _, mask in expected.values()])
    assert 0.2 < masks.mean() < 0.95, "some must count and some not"


def test_the_hash_of_a_step_is_that_of_what_was_read(small_run: Path, documents: list[str]) -> None:
    hashes = []
    for overrides in (OBJECTIVES["rearranged"], ("data.document_mask=true",)):
        run = load_run(small_run, [*documents, *overrides])
        with open_reader(open_sources(run), run, worlds(run)[0]) as reader:
            list(train_micro_batches(reader, run.train, worlds(run)[0], consumed_samples=0, global_batch_size=8))
            hashes.append(reader._hash)
    assert hashes[0] == hashes[1] != (0, 0)


def test_the_position_names_the_index_where_documents_decide(small_run: Path, documents: list[str]) -> None:
    for overrides, expected in (
        ((), False),
        ((GOLDFISH,), False),
        ((MASKED_SPANS,), True),
        ((FILL_IN_THE_MIDDLE,), True),
    ):
        run = load_run(small_run, [*documents, *overrides])
        assert TrainData(open_sources(run), run.data).reads_index == expected


def test_a_micro_batch_that_forgets_the_mask_would_be_noticed(small_run: Path, documents: list[str]) -> None:
    run = load_run(small_run, [*documents, *OBJECTIVES["masked"]])
    data = TrainData(open_sources(run), run.data)
    forgotten = TrainData(replace(data.sources, objectives=replace(data.sources.objectives, training=())), run.data)
    assert not np.array_equal(sample_as_trained(data, 0).counted, sample_as_trained(forgotten, 0).counted)


def test_a_rehearsal_has_the_mask_that_an_objective_brings(small_run: Path) -> None:
    for overrides, has_own in (((), False), ((GOLDFISH,), True)):
        run = load_run(small_run, list(overrides))
        (batch,) = rehearsed_micro_batches(run, worlds(run)[0], 1)
        assert isinstance(batch, MicroBatch)
        assert (batch.loss_mask.stride(0) != 0) == has_own, "without one, all rows share a row of ones"
