"""A rehearsal of ranks that share each sequence: what they gather is what the formula says, and all have as much work and memory."""

import io
import json
from typing import Any

import pytest

from fanal.console import Console
from pretrain.config.derive import gathered_elements
from pretrain.config.load import load_run
from pretrain.rehearse.rehearse import rehearse
from pretrain.rehearse.report import show, to_json
from tests.unit.rehearse.alone import ROOT, answer

TINY = ROOT / "configs" / "tiny.yaml"
COMMON = (
    "parallel.device=auto", "parallel.pipeline_model_parallel_size=1", "train.precision=bf16", "train.global_batch_size=8",
    "parallel.context_parallel_size=4",
)  # fmt: skip
ONE, TWO = "parallel.tensor_model_parallel_size=1", "parallel.tensor_model_parallel_size=2"
CASES = {
    "rows": ((*COMMON, ONE, "parallel.sequence_parallel=false"), [0, 1, 2, 3], 4),
    "documents": ((*COMMON, ONE, "parallel.sequence_parallel=false", "data.document_mask=true"), [0, 1], 4),
    "selective": ((*COMMON, ONE, "parallel.sequence_parallel=false", "train.recompute=selective"), [0], 4),
    "tensor": ((*COMMON, TWO), [0, 7], 8),
}
REHEARSE = """
import dataclasses, json
from pretrain.config.load import load_run
from pretrain.rehearse.rank import rehearse_rank
found = []
for overrides, ranks, num_ranks in json.loads('''{cases}'''):
    run = load_run("{config}", overrides)
    found.append([dataclasses.asdict(rehearse_rank(run, rank=rank, num_ranks=num_ranks)) for rank in ranks])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, list[dict[str, Any]]]:
    """What each rank of each case does."""
    return dict(zip(CASES, answer(REHEARSE.format(cases=json.dumps(list(CASES.values())), config=TINY)), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_each_layer_and_micro_batch_gathers_whole_keys_and_values_and_scatters_their_gradients(
    found: dict[str, list[dict[str, Any]]], case: str
) -> None:
    run = load_run(TINY, CASES[case][0])
    each = 2 * gathered_elements(
        run.model, run.parallel, seq_length=run.data.seq_length, micro_batch_size=run.train.micro_batch_size
    )
    for rank in found[case]:
        sent = {one["operation"]: one["num_bytes"] for one in rank["step"]["traffic"] if one["group"] == "cp"}
        layers = run.model.num_layers * rank["micro_batches"] * each
        again = 2 if run.train.recompute == "selective" else 1
        assert sent == {"allgather": again * layers, "reduce_scatter": layers}


def test_every_rank_of_a_sequence_has_the_memory_and_the_products_of_the_first(
    found: dict[str, list[dict[str, Any]]],
) -> None:
    for case in ("rows", "documents"):
        first, *others = found[case]
        assert [rank["cp_rank"] for rank in found[case]] == CASES[case][1]
        for rank in others:
            assert rank["step"]["flops"] == first["step"]["flops"]
            assert abs(rank["peak_bytes"] - first["peak_bytes"]) < 1e-3 * first["peak_bytes"]


def test_gathered_keys_and_values_are_a_part_of_the_peak_that_selective_recomputation_takes_away(
    found: dict[str, list[dict[str, Any]]],
) -> None:
    kept, again = (
        {part["kind"]: part["num_bytes"] for part in found[case][0]["peak_parts"]}.get(
            "activations: gathered keys and values", 0
        )
        for case in ("rows", "selective")
    )
    run = load_run(TINY, CASES["rows"][0])
    whole = 2 * gathered_elements(
        run.model, run.parallel, seq_length=run.data.seq_length, micro_batch_size=run.train.micro_batch_size
    )
    assert kept >= (run.model.num_layers - 1) * whole > 2 * again


def test_the_report_and_its_json_say_the_rank_of_the_sequence() -> None:
    run = load_run(TINY, CASES["tensor"][0])
    console = Console(file=io.StringIO(), width=200)
    rehearsals = rehearse(run, num_ranks=8, rank=7)
    show("tiny", run, rehearsals, None, console)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    (place,) = (line for line in lines if "tensor, pipeline, context, data rank" in line)
    assert place.split("│")[1].strip() == "1, 0, 3, 0"
    assert any("cp of 4: allgather" in line for line in lines)
    (rank,) = json.loads(to_json("tiny", rehearsals))["ranks"]
    assert (rank["tp_rank"], rank["pp_rank"], rank["cp_rank"], rank["dp_rank"]) == (1, 0, 3, 0)


def test_ranks_that_hold_no_whole_sequences_are_refused_and_both_numbers_that_are_offered_fit() -> None:
    run = load_run(TINY, CASES["tensor"][0])
    with pytest.raises(ValueError, match=r"\* parallel.context_parallel_size \(4\) = 8 ranks; start 8 or 16 ranks"):
        rehearse(run, num_ranks=12)
    with pytest.raises(ValueError, match=r"--rank \(16\) must be one of the 16 ranks, .*; --rank 15 works"):
        rehearse(run, num_ranks=16, rank=16)
