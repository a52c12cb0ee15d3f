"""The status of hand-made run folders, with and without Slurm."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from launch import slurm
from launch.__main__ import cli
from launch.chain import jobs_file
from launch.status.progress import timeline
from launch.status.status import status
from launch.status.text import lines
from tests.unit.launch.run_folder import (
    START,
    START_S,
    RunFolder,
    decided,
    end,
    start,
    started,
    step,
    submitted,
    validation,
)

pytestmark = pytest.mark.usefixtures("no_slurm")


def with_queue(monkeypatch: pytest.MonkeyPatch, *rows: str) -> None:
    def ask(*command: str) -> str:
        if command[0] == "squeue":
            assert "--name=fanal-mine-abc123" in command
            return "".join(f"{row}\n" for row in rows)
        return command[-1].replace(",", "\n")

    monkeypatch.setattr(slurm, "ask", ask)


def test_a_fresh_run_has_no_figures_yet(tmp_path: Path, config: str) -> None:
    RunFolder(tmp_path / "run", config)
    found = status(tmp_path / "run")
    assert (found["state"], found["step"], found["train_steps"], found["steps_left"]) == ("not started", 0, 1000, 1000)
    assert found["loss_nats"] is None and found["pace"] is None and found["eta_hours"] is None
    assert found["checkpoint"]["step"] is None and found["checkpoint"]["num_on_disk"] == 0


def test_a_queued_run_waits(tmp_path: Path, config: str) -> None:
    RunFolder(tmp_path / "run", config).jobs(submitted("11", "12"))
    found = status(tmp_path / "run")
    assert found["state"] == "waiting" and found["submitted"][0]["jobs"] == ["11", "12"]
    assert "not on this machine" in found["slurm_problem"]


def test_a_running_run_tells_its_pace_and_what_is_left(tmp_path: Path, config: str) -> None:
    run = RunFolder(tmp_path / "run", config)
    run.jobs(submitted("11", "12"), started("11"))
    run.metrics(*(step(number, loss=5 - number / 1000) for number in range(1, 401)), validation(400, 3.5))
    run.checkpoint(300, age_s=7200)
    run.checkpoint(400, age_s=3600)
    found = status(tmp_path / "run")
    assert (found["state"], found["step"], found["steps_left"]) == ("running", 400, 600)
    assert (found["loss_nats"], found["loss_before_nats"], found["loss_before_step"]) == (4.6, 4.7, 300)
    assert found["validation_loss_nats"] == {"code": 3.5}
    assert found["pace"]["num_records"] == 50 and found["pace"]["tokens_per_second_per_gpu"] == 62.5
    # 4 s of validation every 100 steps of 2 s.
    assert found["lost_share"] == pytest.approx(0.04 / 2.04)
    assert found["eta_hours"] == pytest.approx(600 * 2.04 / 3600) and "restarts are not counted" in found["eta_counts"]
    assert found["hours_per_job"] == 10 and found["eta_jobs"] == 1
    assert found["checkpoint"]["step"] == 400 and found["checkpoint"]["num_on_disk"] == 2
    assert found["checkpoint"]["age_hours"] == pytest.approx(1, abs=0.05)


def test_steps_that_are_trained_twice_count_once(tmp_path: Path, config: str) -> None:
    run = RunFolder(tmp_path / "run", config)
    # The first attempt is slow, and spikes to 9 in the 30 steps that are lost.
    run.metrics(*(step(number, step_time_s=8.0, loss=9.0 if number > 200 else 4.0) for number in range(1, 231)))
    run.metrics(validation(230, 9.0))
    run.metrics(*(step(number, step_time_s=2.0) for number in range(201, 211)))
    run.checkpoint(200)
    run.jobs(submitted("11"), started("11"), started("11", 1, at_step=200))
    found = status(tmp_path / "run")
    assert (found["step"], found["loss_nats"], found["loss_step"]) == (210, 3.0, 210)
    assert (found["loss_before_step"], found["loss_before_nats"]) == (110, 4.0)
    assert found["validation_step"] is None, "that validation was of steps that are lost"
    assert found["pace"]["step_time_s"] == 2.0 and found["pace"]["num_records"] == 10
    assert found["consumed_tokens"] == 210_000


def test_a_seamless_resume_is_known_by_its_job(tmp_path: Path, config: str) -> None:
    run = RunFolder(tmp_path / "run", config)
    run.metrics(*(step(number, step_time_s=8.0) for number in range(1, 201)))
    run.metrics(*(step(number, step_time_s=2.0) for number in range(201, 204)))
    run.jobs(submitted("11"), started("11"), started("11", 1, at_step=200))
    found = status(tmp_path / "run")
    assert found["pace"] == {
        "num_records": 3, "of_current_attempt": True, "step_time_s": 2.0, "tokens_per_second": 500.0,
        "tokens_per_second_per_gpu": 62.5,
    }  # fmt: skip


def test_an_attempt_that_has_not_written_yet_stands_at_its_checkpoint(tmp_path: Path, config: str) -> None:
    run = RunFolder(tmp_path / "run", config)
    run.metrics(*(step(number) for number in range(1, 231)), written=START_S - 60)
    run.checkpoint(200)
    run.jobs(submitted("11"), started("11", 1, at_step=200))
    found = status(tmp_path / "run")
    assert (found["step"], found["loss_step"], found["steps_left"]) == (200, 200, 800)
    assert found["pace"]["of_current_attempt"] is False


def test_a_run_that_starts_from_nothing_again_forgets_all_steps() -> None:
    line = timeline([validation(0, 8.0), step(1), step(2), validation(0, 8.1), step(1, loss=7.0)])
    assert [(record["step"], record["loss"]) for record in line.steps] == [(1, 7.0)]
    assert [record["validation_loss"]["code"] for record in line.validations] == [8.1]


def test_a_finished_run_has_nothing_left(tmp_path: Path, config: str) -> None:
    run = RunFolder(tmp_path / "run", config)
    run.metrics(step(999), step(1000), end(1000, "finished"))
    run.checkpoint(1000)
    run.jobs(submitted("11"), started("11"), decided("11", "finish", at_step=1000, time_utc="2026-03-01T11:00:00Z"))
    found = status(tmp_path / "run")
    assert (found["state"], found["steps_left"], found["eta_hours"], found["eta_jobs"]) == ("finished", 0, 0.0, 0)


def test_a_finished_run_that_is_made_longer_is_not_finished(tmp_path: Path, config: str) -> None:
    run = RunFolder(tmp_path / "run", config)
    run.metrics(step(500), end(500, "finished"))
    run.checkpoint(500)
    run.jobs(submitted("11"))
    found = status(tmp_path / "run")
    assert (found["state"], found["steps_left"]) == ("waiting", 500)


def finished_at(folder: Path, config: str, last: int) -> RunFolder:
    """A run that its jobs brought to its end, as they knew it."""
    run = RunFolder(folder, config.replace("train_steps: 1000", f"train_steps: {last}"))
    run.metrics(start(0, train_steps=last), step(last), end(last, "finished"))
    run.jobs(submitted("11"), started("11"), decided("11", "finish", at_step=last, time_utc="2026-03-01T11:00:00Z"))
    return run


def test_a_finished_run_that_is_made_longer_by_hand_ends_where_its_last_start_says(tmp_path: Path, config: str) -> None:
    run = finished_at(tmp_path / "run", config, 6)
    assert ("step", "6 of 6 (100.0%), 6,000 tokens") in lines(status(run.path))
    run.metrics(start(6, train_steps=488), step(7))
    found = status(run.path)
    assert (found["state"], found["steps_left"]) == ("unknown", 481)
    assert ("step", "7 of 488 (1.4%), 7,000 tokens") in lines(found)
    run.metrics(step(122), end(122, "stopped"))
    assert ("step", "122 of 488 (25.0%), 122,000 tokens") in lines(status(run.path))
    run.metrics(start(122, train_steps=488), step(488), end(488, "finished"))
    assert (status(run.path)["state"], status(run.path)["steps_left"]) == ("finished", 0)


def test_a_run_whose_decay_has_begun_ends_with_it(tmp_path: Path, config: str) -> None:
    decay = {"kind": "decay", "step": 6, "start_sample": 48, "end_sample": 80, "train_steps": 10}
    run = RunFolder(tmp_path / "run", config)
    run.metrics(start(0, train_steps=1000), step(6), decay, step(7))
    assert ("step", "7 of 10 (70.0%), 7,000 tokens") in lines(status(run.path))
    run.metrics(step(10), end(10, "finished"))
    found = status(run.path)
    assert (found["state"], found["steps_left"]) == ("finished", 0)


def test_the_time_that_is_left_counts_the_batches_of_later_stages(tmp_path: Path, config: str) -> None:
    stages = "  batch_stages:\n  - start_sample: 16\n    global_batch_size: 16\n"
    longer = config.replace("  batch_stages: []\n", stages)
    assert longer != config
    run = RunFolder(tmp_path / "run", longer)
    run.metrics(step(1))
    found = status(run.path)  # no checkpoint: 1 step of 8 samples is done, 1 more up to sample 16, and 998 of 16
    assert found["eta_hours"] == pytest.approx((8 + 998 * 16) / 8 * 2.0 / 3600)


def test_a_run_of_an_older_version_that_was_made_longer_has_the_steps_of_its_checkpoint(
    tmp_path: Path, config: str
) -> None:
    run = finished_at(tmp_path / "run", config, 6)
    run.metrics(start(6), step(122))
    assert ("step", "122, beyond the 6 of the config that is here, 122,000 tokens") in lines(status(run.path))
    run.checkpoint(100)
    (run.path / "checkpoints" / "step-00000100" / "config.yaml").write_text(config)
    assert ("step", "122 of 1,000 (12.2%), 122,000 tokens") in lines(status(run.path))


def test_jobs_that_were_submitted_since_say_how_long_the_run_is(tmp_path: Path, config: str) -> None:
    run = finished_at(tmp_path / "run", config, 6)
    (run.path / "launch" / "config.yaml").write_text(config)
    os.utime(run.path / "metrics.jsonl", (START_S, START_S))
    assert ("step", "6 of 1,000 (0.6%), 6,000 tokens") in lines(status(run.path))


def test_the_time_that_is_left_counts_the_larger_batches_of_a_ramp(tmp_path: Path, config: str) -> None:
    ramp = "  batch_ramp:\n    start: 2\n    increment: 6\n    samples: 20\n"
    longer = config.replace("  batch_ramp: null\n", ramp)
    assert longer != config
    run = RunFolder(tmp_path / "run", longer)
    run.metrics(*(step(number) for number in range(1, 6)))
    found = status(run.path)
    # 5 steps of 2 samples are done; 5 more, up to sample 20, and 990 of 8.
    assert found["steps_left"] == 995
    assert found["eta_hours"] == pytest.approx((5 * 2 + 990 * 8) / 2 * 2.0 / 3600)


def test_a_stopped_run_goes_on_from_its_checkpoint_and_says_why_it_stopped(
    tmp_path: Path, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "run", config)
    run.metrics(*(step(number) for number in range(1, 451)))
    run.checkpoint(400)
    stop = decided("11", "stop", at_step=400, time_utc="2026-03-01T10:16:40Z", exclude=("n2",))
    run.jobs(submitted("11"), started("11"), stop)
    found = status(tmp_path / "run")
    assert (found["state"], found["step"], found["steps_left"]) == ("stopped", 450, 600)
    assert found["last_decision"]["reason"] == "as [told] here" and found["excluded_nodes"] == []  # long ago
    monkeypatch.setattr("launch.status.queue.utc_now", lambda: jobs_file.time_of("2026-03-03T10:16:00Z"))
    assert status(tmp_path / "run")["excluded_nodes"] == ["n2"]
    # 1,000 s for 400 steps of 2 s that were kept.
    assert found["lost_share"] == pytest.approx(0.2) and "restarts" in found["eta_counts"]
    assert found["eta_hours"] == pytest.approx(600 * 2.5 / 3600)
    assert ("last decision", "stop: as [told] here (job 11, 2026-03-01T10:16:40Z)") in lines(found)


def test_a_torn_last_line_is_passed_over(tmp_path: Path, config: str) -> None:
    run = RunFolder(tmp_path / "run", config)
    run.metrics(step(1), step(2), json.dumps(step(3))[:40])
    (run.path / "jobs.jsonl").write_text(json.dumps({"time_utc": START, **submitted("11")}) + '\n{"event": "star')
    found = status(tmp_path / "run")
    assert found["step"] == 2 and found["attempts"] == []


def test_a_run_without_jobs_takes_its_steps_from_its_checkpoint(tmp_path: Path, config: str) -> None:
    folder = tmp_path / "run"
    run = RunFolder(folder)
    (folder / "launch" / "job.json").unlink()
    run.metrics(step(1, loss=None))
    run.checkpoint(100)
    (folder / "checkpoints" / "step-00000100" / "config.yaml").write_text(config)
    (folder / "checkpoints" / "step-00000200.part").mkdir()
    (folder / "checkpoints" / "step-00000050.bad").mkdir()
    found = status(folder)
    assert (found["state"], found["train_steps"], found["slurm_problem"]) == ("unknown", 1000, None)
    assert (found["jobs_waiting"], found["eta_jobs"], found["step"]) == (None, None, 100)
    assert found["checkpoint"]["num_being_written"] == 1 and found["checkpoint"]["num_set_aside"] == 1
    assert ("training loss", "not finite after step 1") in lines(found)


def test_a_config_that_cannot_be_read_leaves_the_rest(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", "of_another_version: 1\n")
    run.metrics(step(1))
    found = status(tmp_path / "run")
    assert found["train_steps"] is None and found["eta_hours"] is None and found["step"] == 1


def test_slurm_tells_who_runs_and_who_waits(tmp_path: Path, config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    RunFolder(tmp_path / "run", config).jobs(submitted("11", "12"), started("11"))
    with_queue(
        monkeypatch,
        "11|RUNNING|None|2026-03-01T11:00:00|9:00:00|n[1-2]|",
        "12|PENDING|Dependency|N/A|10:00:00||n7,n8",
    )
    found = status(tmp_path / "run")
    assert found["state"] == "running"
    assert [job["job"] for job in found["jobs_running"]] == ["11"]
    assert [(job["job"], job["reason"]) for job in found["jobs_waiting"]] == [("12", "Dependency")]
    assert found["excluded_nodes"] == ["n7", "n8"]


def test_a_stranger_s_job_of_the_same_name_is_not_the_run_s(
    tmp_path: Path, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "run", config)
    run.jobs(submitted("11"), started("11"))
    owner = (tmp_path / "run" / "launch" / "job.json").stat().st_uid
    theirs = "99|RUNNING|None|2026-03-01T11:00:00|9:00:00|n[1-2]|\n"
    monkeypatch.setattr(slurm, "ask", lambda *command: "" if f"--user={owner}" in command else theirs)
    assert status(tmp_path / "run")["state"] == "gone"


@pytest.mark.parametrize(
    ("rows", "state"),
    [((), "gone"), (("11|PENDING|BeginTime|N/A|10:00:00||",), "waiting")],
)
def test_an_attempt_without_a_decision_is_gone_or_waits_if_slurm_says_so(
    tmp_path: Path, config: str, monkeypatch: pytest.MonkeyPatch, rows: tuple[str, ...], state: str
) -> None:
    RunFolder(tmp_path / "run", config).jobs(submitted("11"), started("11"))
    with_queue(monkeypatch, *rows)
    assert status(tmp_path / "run")["state"] == state


def test_a_job_that_has_decided_and_is_leaving_the_queue_does_not_run(
    tmp_path: Path, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "run", config)
    run.jobs(submitted("11"), started("11"), decided("11", "stop", at_step=0, time_utc=START))
    with_queue(monkeypatch, "11|COMPLETING|None|2026-03-01T11:00:00|9:00:00|n[1-2]|")
    assert status(tmp_path / "run")["state"] == "stopped"


KEYS = {
    "run_dir", "state", "step", "train_steps", "steps_left", "consumed_tokens", "metrics_age_s", "hang", "loss_nats", "loss_step",
    "loss_before_nats", "loss_before_step", "validation_loss_nats", "validation_step", "pace", "plan", "plan_problem", "eta_hours", "eta_jobs",
    "eta_counts", "lost_share", "hours_per_job", "checkpoint", "skipped_steps", "skipped_spikes", "submitted", "attempts",
    "last_decision", "excluded_nodes", "jobs_running", "jobs_waiting", "slurm_problem",
}  # fmt: skip


def test_json_has_the_same_keys_for_every_run(tmp_path: Path, config: str) -> None:
    RunFolder(tmp_path / "fresh", config)
    run = RunFolder(tmp_path / "running", config)
    run.jobs(submitted("11"), started("11"))
    run.metrics(step(1), validation(1, 3.0))
    for name in ("fresh", "running"):
        done = CliRunner().invoke(cli, ["status", str(tmp_path / name), "--json"])
        assert done.exit_code == 0 and set(json.loads(done.output)) == KEYS


def test_a_status_for_people_is_readable(tmp_path: Path, config: str) -> None:
    run = RunFolder(tmp_path / "run", config)
    run.jobs(*(event for number in range(9) for event in (started("11", number),)))
    run.metrics(step(1), step(2))
    done = CliRunner().invoke(cli, ["status", str(run.path)])
    assert done.exit_code == 0
    for words in ("2 of 1,000 (0.2%)", "62 per GPU", "n1, n2", "the last 8 of 9 starts", "queue"):
        assert words in done.output


@pytest.mark.parametrize("name", ["nothing", "other"])
def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "other").mkdir()
    done = CliRunner().invoke(cli, ["status", str(tmp_path / name)])
    assert done.exit_code == 2 and "Traceback" not in done.output
    assert f"RUN_DIR ({tmp_path / name}) must be the folder of a run" in done.output and "works" in done.output
