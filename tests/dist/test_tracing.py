"""log.profile_from_step: a trace of these steps and no others, of one rank, and the training as it would be without."""

import gzip
import json
from pathlib import Path

import pytest

from fanal.errors import UserError
from pretrain.config.rules import check_ranks
from tests.dist.harness import make_run, run_and_trace
from tests.runs.cases import DP2

ASKED = ("log.profile_from_step=3", "log.profile_steps=2", "train.train_steps=6")


def steps_in(trace: Path) -> set[str]:
    """The steps that a trace has, as torch's profiler writes them."""
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    assert any(event.get("name") in ("aten::mm", "mkldnn::_linear_pointwise") for event in events), (
        "what ran in them is there"
    )
    return {event["name"] for event in events if str(event.get("name")).startswith("step ")}


def test_the_steps_that_are_asked_for_are_traced_on_the_rank_that_is_asked(small_run: Path, tmp_path: Path) -> None:
    plain = run_and_trace(make_run(small_run, tmp_path / "plain", *DP2, "train.train_steps=6"))
    traced = run_and_trace(make_run(small_run, tmp_path / "traced", *DP2, *ASKED, "log.profile_rank=1"))
    assert traced.exit_code == 0, traced.failure
    assert traced.losses == plain.losses and traced.grad_norms == plain.grad_norms
    assert not (tmp_path / "plain" / "profile").exists()
    (trace,) = (tmp_path / "traced" / "profile").iterdir()
    assert trace.name == "trace-steps-3-4-rank-00001.json.gz"
    assert steps_in(trace) == {"step 3", "step 4"}


@pytest.mark.parametrize(
    ("first", "steps", "found"),
    [(1, 2, {"step 1", "step 2"}), (4, 100, {"step 4", "step 5", "step 6"}), (6, 1, {"step 6"}), (7, 1, None)],
)
def test_a_trace_begins_with_the_first_step_and_ends_with_the_run(
    first: int, steps: int, found: set[str] | None, small_run: Path, tmp_path: Path
) -> None:
    asked = (f"log.profile_from_step={first}", f"log.profile_steps={steps}", "train.train_steps=6")
    assert run_and_trace(make_run(small_run, tmp_path, *asked)).exit_code == 0
    traces = list((tmp_path / "profile").iterdir()) if (tmp_path / "profile").exists() else []
    assert [steps_in(trace) for trace in traces] == ([] if found is None else [found])


def test_a_trace_that_cannot_be_written_ends_no_run(small_run: Path, tmp_path: Path) -> None:
    (tmp_path / "profile").write_text("in the way")
    run = make_run(small_run, tmp_path, *ASKED)
    trace = run_and_trace(run, fresh=False)
    assert trace.exit_code == 0 and list(trace.losses) == [1, 2, 3, 4, 5, 6]
    assert "no trace was written, and training continues" in trace.output


def test_a_rank_that_the_run_has_not_is_refused(small_run: Path, tmp_path: Path) -> None:
    run = make_run(small_run, tmp_path, *ASKED, "log.profile_rank=2")
    with pytest.raises(
        UserError, match=r"log.profile_rank \(2\) must be one of the 2 rank\(s\) .*; log.profile_rank=1 works"
    ):
        check_ranks(run, 2)
