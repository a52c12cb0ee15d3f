"""A rehearsal of layers' inputs on the host: the peak falls by their bytes, the copies are counted, and the host waits for none."""

import json
from typing import Any

import pytest

from pretrain.rehearse.record import TO_GPU, TO_HOST
from tests.unit.rehearse.alone import answer

SIZES = [
    "parallel.device=auto", "train.precision=bf16", "train.global_batch_size=8", "train.micro_batch_size=4", "data.seq_length=1024",
    "parallel.tensor_model_parallel_size=1", "parallel.sequence_parallel=false", "model.num_layers=16", "train.recompute=full",
    "model.vocab_size=512",
]  # fmt: skip
ONE, TWO = "parallel.pipeline_model_parallel_size=1", "parallel.pipeline_model_parallel_size=2"
OFFLOAD = "train.offload_activations=true"
CASES = {
    "one stage": ([*SIZES, ONE], 0, 1),
    "one stage on the host": ([*SIZES, ONE, OFFLOAD], 0, 1),
    "three layers on the host": ([*SIZES, ONE, OFFLOAD, "train.recompute_num_layers=3"], 0, 1),
    "first stage": ([*SIZES, TWO], 0, 2),
    "first stage on the host": ([*SIZES, TWO, OFFLOAD], 0, 2),
    "last stage": ([*SIZES, TWO], 1, 2),
    "last stage on the host": ([*SIZES, TWO, OFFLOAD], 1, 2),
}
REHEARSE = """
import dataclasses, json
from pretrain.config.load import load_run
from pretrain.model import offload
from pretrain.rehearse.rank import rehearse_rank
{fault}
found = []
for overrides, rank, num_ranks in json.loads('''{cases}'''):
    run = load_run("configs/tiny.yaml", overrides)
    found.append(dataclasses.asdict(rehearse_rank(run, rank=rank, num_ranks=num_ranks)))
print(json.dumps(found))
"""
ALL_FETCHED_AT_ONCE = """
fetch = offload.Kept.fetch
def broken(self):
    fetch(self)
    if self.before is not None:
        self.before.fetch()
offload.Kept.fetch = broken
"""
"""Each fetch begins all others, so that memory has them at once."""
INPUT_BYTES = 4 * 1024 * 192 * 2
MICRO_BATCHES = 2


def rehearsed(*names: str, fault: str = "") -> list[dict[str, Any]]:
    return answer(REHEARSE.format(cases=json.dumps([CASES[name] for name in names]), fault=fault))


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    """What each case takes."""
    return dict(zip(CASES, rehearsed(*CASES), strict=True))


def inputs_less(without: dict[str, Any], with_host: dict[str, Any]) -> float:
    """By how many inputs of layers the peak is lower."""
    return (without["peak_bytes"] - with_host["peak_bytes"]) / INPUT_BYTES


def copies(rank: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Copies of inputs in a step, and their bytes, by way."""
    of_inputs = [copy for copy in rank["step"]["copies"] if copy["place"].startswith("pretrain/model/offload.py")]
    return {copy["way"]: (copy["count"], copy["num_bytes"]) for copy in of_inputs}


@pytest.mark.parametrize(
    ("case", "layers", "under_way"), [("one stage", 15, 1), ("first stage", 8, 2), ("last stage", 6, 1)]
)
def test_the_peak_falls_by_the_inputs_but_for_what_is_in_use(
    found: dict[str, dict[str, Any]], case: str, layers: int, under_way: int
) -> None:
    """In use are an input, the next one, which is fetched, and behind a stage's last layer the gradient between two layers. The
    first stage has two micro batches under way. The last has its first layer's input from the first stage, and holds it."""
    most = layers * under_way
    assert most - 3 <= inputs_less(found[case], found[f"{case} on the host"]) <= most


@pytest.mark.parametrize(
    ("case", "layers"),
    [("one stage", 15), ("three layers", 3), ("first stage", 8), ("last stage", 6)],
)
def test_each_input_is_copied_once_each_way_and_the_host_waits_for_none(
    found: dict[str, dict[str, Any]], case: str, layers: int
) -> None:
    expected = layers * MICRO_BATCHES, layers * MICRO_BATCHES * INPUT_BYTES
    with_host = found[f"{case} on the host"]
    assert copies(with_host) == {TO_HOST: expected, TO_GPU: expected}
    assert not [wait for wait in with_host["step"]["waits"] if "offload" in wait["place"]]
    if case in found:
        assert with_host["step"]["waits"] == found[case]["step"]["waits"]
        assert with_host["step"]["flops"] == found[case]["step"]["flops"]
        assert copies(found[case]) == {}


def test_inputs_that_are_all_fetched_at_once_save_no_memory(found: dict[str, dict[str, Any]]) -> None:
    (broken,) = rehearsed("one stage on the host", fault=ALL_FETCHED_AT_ONCE)
    assert inputs_less(found["one stage"], broken) < 2
