"""train.deterministic on a CPU: a run with it trains what one without it trains, bit for bit, and says that it was on.

What it is for, the same bits on a GPU, is tested in tests/gpu.
"""

from pathlib import Path

import pytest

from fanal.run_progress import parse_metrics
from tests.dist.harness import make_run, run_and_trace

LAYOUTS = {
    "one rank": (),
    "TP2 x PP2 + SP, documents": (
        "parallel.tensor_model_parallel_size=2",
        "parallel.pipeline_model_parallel_size=2",
        "parallel.sequence_parallel=true",
        "data.document_mask=true",
    ),
}


def start_of(run_dir: Path) -> dict[str, object]:
    """The record of a run's start."""
    return next(
        record for record in parse_metrics((run_dir / "metrics.jsonl").read_text()) if record["kind"] == "start"
    )


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_run_that_asks_for_the_same_bits_trains_what_one_trains_that_does_not(
    layout: tuple[str, ...], small_run: Path, tmp_path: Path
) -> None:
    shared = (*layout, "train.train_steps=5")
    plain = run_and_trace(make_run(small_run, tmp_path / "plain", *shared))
    asked = run_and_trace(make_run(small_run, tmp_path / "asked", *shared, "train.deterministic=true"))
    assert plain.exit_code == asked.exit_code == 0, (plain.failure, asked.failure)
    assert (asked.losses, asked.grad_norms) == (plain.losses, plain.grad_norms) and len(asked.losses) == 5
    assert start_of(tmp_path / "asked")["deterministic"] is True
    start = start_of(tmp_path / "plain")
    assert start["deterministic"] is False and start["attention"] == "sdpa" and start["attention_passed_over"] == {}
