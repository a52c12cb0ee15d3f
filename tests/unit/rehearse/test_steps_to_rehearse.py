"""A step of many micro batches follows from steps of few."""

import json

import pytest

from pretrain.config.schema import ParallelConfig
from pretrain.rehearse.meter import Counts
from pretrain.rehearse.steps import counts_of, steps_to_rehearse
from tests.unit.rehearse.alone import answer

WHOLE_AND_SHORT = """
import dataclasses, json
from pretrain.config.load import load_run
from pretrain.rehearse import rank as room
run = load_run("configs/tiny.yaml", ["parallel.device=auto", "train.precision=bf16", "train.global_batch_size=48", *{overrides}])
short = room.rehearse_rank(run, rank={rank}, num_ranks=4)
room.steps_to_rehearse = lambda parallel, count: (count, count, count)
whole = room.rehearse_rank(run, rank={rank}, num_ranks=4)
print(json.dumps([{{**dataclasses.asdict(one.step), "peak": one.peak_bytes, "of": one.rehearsed_micro_batches}} for one in (short, whole)]))
"""


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize(
    "overrides", ["[]", '["parallel.virtual_pipeline_model_parallel_size=2"]'], ids=["plain", "virtual"]
)
def test_a_step_of_many_micro_batches_is_what_a_whole_rehearsal_of_it_counts(overrides: str, rank: int) -> None:
    short, whole = answer(WHOLE_AND_SHORT.format(overrides=overrides, rank=rank))
    assert short.pop("of") < whole.pop("of") == 12
    assert json.dumps(short) == json.dumps(whole)


def test_few_micro_batches_are_rehearsed_as_they_are() -> None:
    assert steps_to_rehearse(ParallelConfig(pipeline_model_parallel_size=4), 5) == (1, 5, 5)
    assert steps_to_rehearse(ParallelConfig(pipeline_model_parallel_size=4), 6) == (1, 4, 5)
    virtual = ParallelConfig(pipeline_model_parallel_size=2, virtual_pipeline_model_parallel_size=2)
    assert steps_to_rehearse(virtual, 8) == (2, 4, 6)


def test_what_a_step_does_once_is_counted_once_and_the_rest_for_each_micro_batch() -> None:
    few, more = Counts(), Counts()
    few.waits["once", "here"], more.waits["once", "here"] = 1, 1
    few.waits["each", "here"], more.waits["each", "here"] = 2, 3
    assert counts_of(10, 2, few, 3, more).waits == {("once", "here"): 1, ("each", "here"): 10}


def test_what_does_not_grow_by_the_micro_batch_is_noticed() -> None:
    few, more = Counts(), Counts()
    few.flops["products"], more.flops["products"] = 4, 7
    with pytest.raises(AssertionError, match="3 more in 2 micro batches"):
        counts_of(7, 2, few, 4, more)
