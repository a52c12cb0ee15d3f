"""The file of steps that went wrong, and the lines for people."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from fanal.run_folder import SPIKES_FILE
from pretrain.config.load import load_run
from pretrain.data.read import TrainData
from pretrain.data.sources import open_sources
from pretrain.log.bad_steps import budget_line, list_bad_step
from pretrain.log.record import BadStepRecord
from pretrain.log.stamp import Stamp
from pretrain.state import TrainState

RECORD = BadStepRecord(
    step=7, reason="spike", skipped=True, loss=9.5, loss_z=31.25, grad_norm=40.0, grad_norm_z=None,
    first_sample=48, num_samples=8,
)  # fmt: skip
STAMP = Stamp(start=2, began_s=0.0, start_step=5, logged_step=7)


@pytest.fixture(scope="module")
def data(small_run: Path) -> TrainData:
    run = load_run(small_run)
    return TrainData(open_sources(run), run.data)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / SPIKES_FILE).read_text().splitlines()]


def test_a_spike_is_a_line_with_its_samples_and_a_line_for_people(tmp_path: Path, data: TrainData) -> None:
    line = list_bad_step(tmp_path, RECORD, data, STAMP)
    assert line == (
        "spike at step 7, skipped: loss 9.5000 (z 31.2), grad norm 40.000; samples 48 to 55 are in spikes.jsonl"
    )
    (found,) = lines(tmp_path)
    assert (found["step"], found["reason"], found["skipped"], found["loss_z"], found["grad_norm_z"]) == (
        7,
        "spike",
        True,
        31.25,
        None,
    )
    assert [sample["sample"] for sample in found["samples"]] == list(range(48, 56))
    assert set(found["samples"][0]) == {"sample", "source", "domain", "start_token", "first_document", "last_document"}


def test_what_is_not_finite_is_null_and_the_next_step_another_line(tmp_path: Path, data: TrainData) -> None:
    list_bad_step(tmp_path, RECORD, data, STAMP)
    broken = replace(RECORD, step=8, reason="not finite", loss=math.inf, grad_norm=math.nan, loss_z=None)
    assert list_bad_step(tmp_path, broken, data, STAMP).startswith(
        "gradient not finite at step 8, skipped: loss inf, grad norm nan;"
    )
    assert [(found["step"], found["loss"], found["grad_norm"]) for found in lines(tmp_path)] == [
        (7, 9.5, 40.0),
        (8, None, None),
    ]


def test_a_full_file_takes_steps_without_their_samples(tmp_path: Path, data: TrainData) -> None:
    for step in (7, 8, 9):
        said = list_bad_step(tmp_path, replace(RECORD, step=step, skipped=False), data, STAMP, max_bytes=100)
    assert [found["samples"] is None for found in lines(tmp_path)] == [False, True, True]
    assert "trained on" in said and said.endswith("samples 48 to 55 left out of spikes.jsonl, which is full")


def test_a_file_that_cannot_be_written_ends_no_run(tmp_path: Path, data: TrainData) -> None:
    (tmp_path / SPIKES_FILE).mkdir()
    line = list_bad_step(tmp_path, RECORD, data, STAMP)
    assert line.endswith(f"samples 48 to 55 could not be listed in {tmp_path / SPIKES_FILE}: Is a directory")


def test_a_budget_that_is_used_up_is_said_with_what_to_do(small_run: Path) -> None:
    spikes = load_run(small_run).train.spikes
    assert spikes is not None
    line = budget_line(spikes, TrainState(step=7, skipped_spikes=100))
    assert line.startswith("WARNING: the spike of step 7 was trained on: 100 spikes have been skipped")
    assert "train.spikes.max_skipped_spikes (100) allows no more" in line and "resume it with a larger number" in line
