"""The starts of a run: the file of each, and what the lines of its logs say of them; through a kill, another layout and another
batch, and a clock that goes back."""

import itertools
import json
import os
import shutil
import socket
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from fanal.errors import DamageError
from fanal.run_folder import METRICS_FILE, SPIKES_FILE, STARTS_DIR, start_name
from fanal.run_progress import metrics
from pretrain.config.load import to_yaml
from pretrain.config.write_yaml import to_yaml_text
from pretrain.data.sources import open_sources
from pretrain.log.start_file import read_starts
from tests.dist.harness import STAMPED, Trace, make_run, run_and_trace, terminal_of
from tests.runs.cases import PP2, TP2

ROOT = Path(__file__).parents[2]
SAVES = ("checkpoint.interval=3",)
SPIKES = ("train.spikes={z_score: 0.001, window_steps: 2, min_steps: 2}",)
"""Nearly every step is a spike."""


@pytest.fixture(scope="module")
def killed(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trace]:
    """A run of TP2 that was killed in step 9, with checkpoints of steps 3 and 6; and went on in PP2, with another batch, while
    the clock of its host went back an hour."""
    folder = tmp_path_factory.mktemp("starts") / "run"
    first = run_and_trace(make_run(small_run, folder, *TP2, *SAVES, *SPIKES), "killed_at_step_9")
    assert first.exit_code != 0 and max(first.losses) == 8
    shutil.copytree(folder, folder.with_name("killed"))
    again = make_run(small_run, folder, *PP2, *SAVES, *SPIKES, "train.global_batch_size=16")
    second = run_and_trace(again, "the_clock_goes_back_an_hour_at_the_second_step", fresh=False)
    assert second.exit_code == 0, second.failure
    return folder, second


def by_start(folder: Path) -> dict[int, list[dict[str, Any]]]:
    found = defaultdict(list)
    for record in metrics(folder):
        found[record["start"]].append(record)
    return found


def assert_durations_hold(folder: Path) -> None:
    """In each start time goes on; and start-up, validations and saves fit into it."""
    for start, records in by_start(folder).items():
        elapsed = [record["elapsed_s"] for record in records]
        assert elapsed == sorted(elapsed) and elapsed[0] > 0, f"time goes back in start {start}: {elapsed}"
        spent = sum(record.get("validation_time_s", 0.0) + record.get("stall_s", 0.0) for record in records)
        assert elapsed[0] + spent <= elapsed[-1] < 600


def test_each_start_has_a_file_that_says_what_ran_where(killed: tuple[Path, Trace], small_run: Path) -> None:
    folder, _ = killed
    first, second = read_starts(folder)
    assert [(start.number, start.step, start.consumed_samples) for start in (first, second)] == [(1, 0, 0), (2, 6, 48)]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    for start, layout in ((first, TP2), (second, (*PP2, "train.global_batch_size=16"))):
        run = make_run(small_run, folder, *layout, *SAVES, *SPIKES)
        assert to_yaml_text(start.config) == to_yaml(run)
        assert (start.hosts, start.num_ranks, start.devices) == ((socket.gethostname(),), 2, {"cpu": 2})
        assert (start.device_type, start.origin, start.decay_start_sample) == ("cpu", None, None)
        assert start.code.commit == (commit.stdout.strip() or None)
        assert set(start.versions) == {"python", "torch", "megatron-core"} and start.user
        assert start.job == os.environ.get("SLURM_JOB_ID")
        sources = open_sources(run)
        assert [(source.prefix, source.identity, source.num_tokens) for source in start.sources] == [
            (str(source.shard.prefix), source.identity, source.shard.num_tokens) for source in sources.train
        ]
        assert [source.train_tokens for source in start.sources] == [s.order.num_tokens for s in sources.train]
        assert [source.identity for source in start.validation_sources] == [s.identity for s in sources.validation]
        assert 0 < start.startup_s < 600


def test_what_changed_since_the_start_before_is_in_its_file_and_in_a_line_of_the_log(
    killed: tuple[Path, Trace],
) -> None:
    folder, trace = killed
    first, second = read_starts(folder)
    assert first.changes == ()
    assert set(second.changes) == {
        "parallel.tensor_model_parallel_size: 2 -> 1",
        "parallel.pipeline_model_parallel_size: 1 -> 2",
        "train.global_batch_size: 8 -> 16",
    }
    assert f"changed since the start before: {'; '.join(second.changes)}" in " ".join(trace.output.split())


def test_each_line_says_its_start_and_steps_that_are_trained_again_are_marked(killed: tuple[Path, Trace]) -> None:
    folder, _ = killed
    records = by_start(folder)
    assert list(records) == [1, 2] and not any("replay" in record for record in records[1])
    steps = {record["step"]: record.get("replay", False) for record in records[2] if record["kind"] == "step"}
    assert steps == {7: True, 8: True, 9: False, 10: False}
    validations = {
        record["step"]: record.get("replay", False) for record in records[2] if record["kind"] == "validation"
    }
    assert validations == {8: True, 10: False}
    assert not any("replay" in record for record in records[2] if record["kind"] in ("start", "checkpoint", "end"))
    lost = max(record["step"] for record in records[1] if record["kind"] == "step") - read_starts(folder)[1].step
    assert lost == 2
    spikes = [json.loads(line) for line in (folder / SPIKES_FILE).read_text().splitlines()]
    of_second = {spike["step"]: spike.get("replay", False) for spike in spikes if spike["start"] == 2}
    assert of_second and all(replay is (step <= 8) for step, replay in of_second.items())
    assert any(spike["start"] == 1 for spike in spikes)


def test_durations_hold_while_the_clock_goes_back(killed: tuple[Path, Trace]) -> None:
    folder, _ = killed
    times = [record["time_unix_s"] for record in by_start(folder)[2]]
    assert any(after < before - 3000 for before, after in itertools.pairwise(times))
    assert_durations_hold(folder)
    end = by_start(folder)[2][-1]
    assert end["kind"] == "end" and 0 < end["save_wait_s"] < end["elapsed_s"]


def test_a_run_of_an_earlier_version_goes_on_with_its_first_file(killed: tuple[Path, Trace], small_run: Path) -> None:
    folder = killed[0].with_name("killed")
    shutil.rmtree(folder / STARTS_DIR)
    lines = [{name: value for name, value in record.items() if name not in STAMPED} for record in metrics(folder)]
    (folder / METRICS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    trace = run_and_trace(make_run(small_run, folder, *SAVES, *SPIKES), fresh=False)
    assert trace.exit_code == 0, trace.failure
    (start,) = read_starts(folder)
    assert (start.number, start.step) == (1, 6)
    moved = f"run_dir: {killed[0]} -> {folder}"
    assert set(start.changes) == {moved, "parallel.tensor_model_parallel_size: 2 -> 1"}
    records = [record for record in metrics(folder) if "start" in record]
    assert len(records) + len(lines) == len(list(metrics(folder)))
    assert [record["step"] for record in records if record["kind"] == "step" and record.get("replay")] == [7, 8]


def test_durations_by_a_clock_that_goes_back_would_be_noticed(small_run: Path, tmp_path: Path) -> None:
    run = make_run(small_run, tmp_path / "run", "train.train_steps=3", "train.validation_interval=null")
    trace = run_and_trace(run, "the_clock_goes_back_and_durations_are_taken_from_it")
    assert trace.exit_code == 0, trace.failure
    with pytest.raises(AssertionError, match="time goes back in start 1"):
        assert_durations_hold(tmp_path / "run")


def test_a_start_goes_on_beside_a_file_of_starts_that_was_altered(small_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = make_run(small_run, folder, "train.train_steps=2", "train.validation_interval=null")
    assert run_and_trace(run).exit_code == 0
    path = folder / STARTS_DIR / start_name(1)
    path.write_text(path.read_text().replace('"num_ranks": 1', '"num_ranks": 2'))
    with pytest.raises(DamageError, match=r"start-00001.json .* it was altered"):
        read_starts(folder)
    longer = make_run(small_run, folder, "train.train_steps=3", "train.validation_interval=null")
    trace = run_and_trace(longer, fresh=False)
    assert trace.exit_code == 0 and trace.losses.keys() == {1, 2, 3}, trace.failure
    assert "what changed since the start before is not known, and training continues" in terminal_of(folder).read_text()
    assert (folder / STARTS_DIR / start_name(2)).is_file()
