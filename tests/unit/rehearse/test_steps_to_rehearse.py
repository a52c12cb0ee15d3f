"""A step of many micro batches follows from steps of few."""

import pytest

from pretrain.config.schema import ParallelConfig
from pretrain.rehearse.meter import Counts
from pretrain.rehearse.steps import counts_of, steps_to_rehearse
from tests.unit.rehearse.alone import answer

WHOLE_AND_SHORT = """
import dataclasses, json
from pretrain.config.load import load_run
from pretrain.rehearse import rank as room
run = load_run("configs/tiny.yaml", ["parallel.device=auto", "train.precision=bf16", "train.global_batch_size=32", *{overrides}])
short = room.rehearse_rank(run, rank={rank}, num_ranks=4)
room.steps_to_rehearse = lambda parallel, count: (2, count, count)
whole = room.rehearse_rank(run, rank={rank}, num_ranks=4)
print(json.dumps([dataclasses.asdict(one) for one in (short, whole)]))
"""


@pytest.mark.parametrize(("virtual", "rank"), [(1, 0), (1, 2), (2, 0)])
def test_a_step_of_many_micro_batches_is_what_a_whole_rehearsal_of_it_counts(virtual: int, rank: int) -> None:
    overrides = [f"parallel.virtual_pipeline_model_parallel_size={virtual}"]
    short, whole = answer(WHOLE_AND_SHORT.format(overrides=overrides, rank=rank))
    assert short["rehearsed_micro_batches"] < whole["rehearsed_micro_batches"] == 8
    assert short["step"] == whole["step"]
    # Tokens of all micro batches lie in memory at once under virtual stages, and a few numbers of each under any.
    assert abs(short["peak_bytes"] / whole["peak_bytes"] - 1) < 0.002


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
