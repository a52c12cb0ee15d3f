"""The status of run folders with files that are partial, strange or unreadable."""

import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from launch.__main__ import cli
from launch.progress import timeline
from launch.status import status
from tests.unit.launch.run_folder import RunFolder, evaluation, saved, step

pytestmark = pytest.mark.usefixtures("no_slurm")

STRANGE = [
    {"kind": "step", "step": 5, "loss": 3.0},
    step(5) | {"loss": "x"},
    step(5) | {"loss": 10**400},
    step(5) | {"step_time_s": "x"},
    step(5) | {"step_time_s": math.inf},
    step(5) | {"tokens_per_second": math.nan},
    step(5) | {"tokens_per_second_per_gpu": None},
    step(5) | {"consumed_tokens": "x"},
    step(5) | {"skipped_spikes": []},
    step(5) | {"step": True},
    step(5) | {"step": -5},
    step(5) | {"step": 10**400},
    {"kind": "eval", "step": 5},
    evaluation(5, 3.0) | {"held_out_loss": None},
    evaluation(5, 3.0) | {"held_out_loss": {"code": "x"}},
    evaluation(5, 3.0) | {"eval_time_s": None},
    {"kind": "checkpoint", "step": 5},
    saved(5) | {"stall_s": True},
    {"kind": "end", "step": 5},
    {"kind": ["step"], "step": 5},
]


@pytest.mark.parametrize("strange", STRANGE, ids=range(len(STRANGE)))
def test_a_record_that_lacks_what_is_relied_on_counts_for_nothing(strange: dict[str, Any]) -> None:
    before, after = [step(1), evaluation(1, 3.0), saved(1), step(2)], [step(6), evaluation(6, 2.9), saved(6)]
    assert timeline([*before, strange, *after, strange]) == timeline([*before, *after])


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_strange_records_leave_the_rest(tmp_path: Path, config: str, as_json: list[str]) -> None:
    run = RunFolder(tmp_path / "run", config)
    run.metrics(*STRANGE, step(7, loss=2.5), *STRANGE)
    done = CliRunner().invoke(cli, ["status", str(run.path), *as_json])
    assert done.exit_code == 0 and "2.5" in done.output


def test_a_run_whose_time_goes_to_evaluations_alone_tells_no_end(tmp_path: Path, config: str) -> None:
    run = RunFolder(tmp_path / "run", config)
    run.metrics(step(1) | {"step_time_s": 0}, evaluation(1, 3.0))
    found = status(run.path)
    assert (found["lost_share"], found["eta_hours"], found["eta_jobs"]) == (1, None, None)
