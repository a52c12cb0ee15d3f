"""The status of run folders with files that are partial, strange or unreadable."""

import contextlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from launch.__main__ import cli
from launch.status.progress import timeline
from launch.status.status import status
from tests.unit.launch.run_folder import START, RunFolder, decided, saved, start, started, step, submitted, validation

pytestmark = pytest.mark.usefixtures("no_slurm")

SITE = "description: a machine\ngpus_per_node: 0\ncores_per_node: 4\n"

STRANGE = [
    {"kind": "step", "step": 5, "loss": 3.0},
    {name: value for name, value in step(5).items() if name != "loss"},
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
    {"kind": "validation", "step": 5},
    validation(5, 3.0) | {"validation_loss": None},
    validation(5, 3.0) | {"validation_loss": {"code": "x"}},
    validation(5, 3.0) | {"validation_time_s": None},
    {"kind": "checkpoint", "step": 5},
    saved(5) | {"stall_s": True},
    {"kind": "end", "step": 5},
    {"kind": ["step"], "step": 5},
]


@pytest.mark.parametrize("strange", STRANGE, ids=range(len(STRANGE)))
def test_a_record_that_lacks_what_is_relied_on_counts_for_nothing(strange: dict[str, Any]) -> None:
    before, after = [step(1), validation(1, 3.0), saved(1), step(2)], [step(6), validation(6, 2.9), saved(6)]
    assert timeline([*before, strange, *after, strange]) == timeline([*before, *after])


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_strange_records_leave_the_rest(tmp_path: Path, config: str, as_json: list[str]) -> None:
    run = RunFolder(tmp_path / "run", config)
    run.metrics(*STRANGE, step(7, loss=2.5), *STRANGE)
    done = CliRunner().invoke(cli, ["status", str(run.path), *as_json])
    assert done.exit_code == 0 and "2.5" in done.output


def test_a_run_whose_time_goes_to_validations_alone_tells_no_end(tmp_path: Path, config: str) -> None:
    run = RunFolder(tmp_path / "run", config)
    run.metrics(step(1) | {"step_time_s": 0}, validation(1, 3.0))
    found = status(run.path)
    assert (found["lost_share"], found["eta_hours"], found["eta_jobs"]) == (1, None, None)


def test_a_run_that_only_lacks_its_last_checkpoint_and_its_config_is_shown(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    (run.path / "launch" / "job.json").unlink()
    run.metrics(start(0, train_steps=3), step(3))
    done = CliRunner().invoke(cli, ["status", str(run.path)])
    assert done.exit_code == 0 and "3 of 3 (100.0%)" in done.output, done.output


@pytest.fixture
def readable_by_all() -> Iterator[Path]:
    """A folder that another user may enter, which tmp_path is not."""
    folder = Path(tempfile.mkdtemp(prefix="fanal-status-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@contextlib.contextmanager
def no_root() -> Iterator[None]:
    """Root may read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize(
    ("closed", "named"),
    [
        ("metrics.jsonl", "metrics.jsonl"),
        ("jobs.jsonl", "jobs.jsonl"),
        ("launch/job.json", "launch/job.json"),
        ("checkpoints", "checkpoints"),
        ("checkpoints/step-00000002", "checkpoints/step-00000002/COMPLETE"),
        (".", "metrics.jsonl"),
    ],
)
def test_what_may_not_be_read_is_named(readable_by_all: Path, config: str, closed: str, named: str) -> None:
    run = RunFolder(readable_by_all / "run", config)
    run.jobs(submitted("11"), started("11"))
    run.metrics(step(1), step(2))
    run.checkpoint(2)
    mode = (run.path / closed).stat().st_mode
    # As root: Python imports what is needed, which may lie where another user cannot read.
    assert CliRunner().invoke(cli, ["status", str(run.path)]).exit_code == 0
    (run.path / closed).chmod(0)
    with no_root():
        done = CliRunner().invoke(cli, ["status", str(run.path)])
    (run.path / closed).chmod(mode)
    assert done.exit_code == 2 and done.output.count("\n") == 1
    assert f"error: {run.path / named} must be readable for a status: Permission denied" in done.output
    assert f"`chmod -R g+rX {run.path}` by its owner works" in done.output


@pytest.mark.parametrize("name", ["metrics.jsonl", "jobs.jsonl"])
def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path, config: str, name: str) -> None:
    run = RunFolder(tmp_path / "run", config)
    (run.path / name).mkdir()
    done = CliRunner().invoke(cli, ["status", str(run.path)])
    assert done.exit_code == 2 and f"{run.path / name} must be readable for a status: Is a directory" in done.output


@pytest.mark.parametrize(
    "text",
    [
        "[]", '{"name": "x"}', '{"name": "x", "minutes": 1e999}', f'{{"name": "x", "minutes": {10**400}}}', "[" * 100_000,
        '{"name": ["x"], "minutes": 600}',
    ],
    ids=range(6),
)  # fmt: skip
def test_a_damaged_job_json_leaves_the_rest(tmp_path: Path, config: str, text: str) -> None:
    run = RunFolder(tmp_path / "run", config)
    (run.path / "launch" / "job.json").write_text(text)
    run.metrics(step(1), step(2))
    found = status(run.path)
    assert (found["step"], found["hours_per_job"], found["slurm_problem"]) == (2, None, None)


def test_figures_that_are_not_finite_are_null_in_json(tmp_path: Path, config: str) -> None:
    run = RunFolder(tmp_path / "run", config)
    run.metrics(step(1, loss=-math.inf), step(2, loss=math.nan), validation(2, math.inf))
    run.jobs(submitted("11") | {"hours": math.nan})

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    done = CliRunner().invoke(cli, ["status", str(run.path), "--json"])
    found = json.loads(done.output, parse_constant=refuse)
    assert (found["loss_nats"], found["validation_loss_nats"], found["loss_step"]) == (None, {"code": None}, 2)
    assert found["submitted"][0]["hours"] is None
    assert "nan after step 2" in CliRunner().invoke(cli, ["status", str(run.path)]).output


def test_a_path_that_is_no_text_is_shown_all_the_same(tmp_path: Path, config: str) -> None:
    run = RunFolder(tmp_path / "run", config)
    stop = decided("11", "stop", at_step=0, time_utc=START) | {"reason": "no room in runs/caf\udce9"}
    run.jobs(submitted("11"), started("11"), stop)
    done = CliRunner().invoke(cli, ["status", str(run.path)])
    assert done.exit_code == 0 and "caf\\udce9" in done.output


@pytest.mark.parametrize(
    "text",
    [
        "data: {train: {prefix: a, weight: 1}}", "data: {train: 3}", "data: {train: [null]}", "data: {train: [[]]}",
        "data: null", "run_dir: ${nothing}", "- 1", "\0", "{a: [", "? [a]\n: b", "train: {train_steps: {}}",
    ],
)  # fmt: skip
def test_a_damaged_config_leaves_the_rest(tmp_path: Path, text: str) -> None:
    run = RunFolder(tmp_path / "run", text)
    run.metrics(step(1))
    found = status(run.path)
    assert (found["step"], found["train_steps"], found["eta_hours"]) == (1, None, None)


def test_a_damaged_site_counts_for_no_margin(tmp_path: Path, config: str) -> None:
    run = RunFolder(tmp_path / "run", config)
    (run.path / "launch" / "site.yaml").write_text(SITE + "qos: {name: a, max_hours: 3}\n")
    assert status(run.path)["hours_per_job"] == 10


@pytest.mark.parametrize(("said", "hours"), [(1800, 9.5), (None, 9.0), (True, 9.0), ("1800", 9.0), (-5, 9.0)])
def test_jobs_end_by_the_margin_they_were_rendered_with(
    tmp_path: Path, config: str, said: object, hours: float
) -> None:
    run = RunFolder(tmp_path / "run", config)
    (run.path / "launch" / "site.yaml").write_text(SITE + "stop_margin_s: 3600\n")
    path = run.path / "launch" / "job.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "stop_margin_s": said}))
    assert status(run.path)["hours_per_job"] == hours
