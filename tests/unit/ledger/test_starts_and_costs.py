"""Starts, hours and energy of run folders that are written by hand, whose answers are worked out by hand."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from fanal.run_folder import JOBS_FILE, LAUNCH_DIR, METRICS_FILE
from pretrain.ledger import energy as energy_module
from pretrain.ledger import slurm_energy as slurm_energy_module
from pretrain.ledger.ended import decisions_of
from pretrain.ledger.energy import SLURM, SLURM_STEPS, Energy, energy_of
from pretrain.ledger.hours import elapsed_s_in_all, hours_by_device, hours_in_all, hours_of
from pretrain.ledger.starts import Attempt, attempts_of
from pretrain.log.energy_file import NVML, RAPL, EnergyFile, write_energy_file
from pretrain.log.start_file import Code, StartFile


@dataclass
class Folder:
    """What the counting of starts asks of a history."""

    run_dir: Path
    trained_to: int
    starts: list[StartFile] = field(default_factory=list)

    def attempts(self) -> list[Attempt]:
        return attempts_of(self)  # type: ignore[arg-type]

    def log(self, *records: dict[str, Any]) -> None:
        (self.run_dir / METRICS_FILE).write_text("".join(json.dumps(record) + "\n" for record in records))


def start(number: int, step: int, *, job: str | None = None, ranks: int = 4, startup_s: float = 10.0) -> StartFile:
    return StartFile(
        number=number, time_unix_s=1e9, startup_s=startup_s, step=step, consumed_samples=step * 8, decay_start_sample=None,
        config={}, code=Code(version="1", commit=None, modified=None), versions={}, hosts=("n1",), num_ranks=ranks,
        devices={"cpu": ranks}, device_type="cpu", user="ada", job=job, sources=(), validation_sources=(), origin=None,
        changes=(),
    )  # fmt: skip


def step_line(step: int, start: int | None, elapsed_s: float = 0.0, *, step_time_s: float = 2.0) -> dict[str, Any]:
    stamp = {} if start is None else {"start": start, "elapsed_s": elapsed_s, "time_unix_s": 1e9}
    return {"kind": "step", "step": step, "step_time_s": step_time_s, **stamp}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Start 1 trains to step 9 and dies; start 2 goes on from 6 to 8 and dies; start 3 goes on from 4 and ends at 12."""
    made = Folder(tmp_path, 12, [start(1, 0), start(2, 6), start(3, 4)])
    made.log(
        {"kind": "start", "step": 0, "start": 1, "elapsed_s": 10.0},
        step_line(3, 1, 16.0), step_line(9, 1, 40.0),
        {"kind": "validation", "step": 9, "validation_time_s": 3.0, "start": 1, "elapsed_s": 43.0},
        {"kind": "start", "step": 6, "start": 2, "elapsed_s": 10.0},
        step_line(8, 2, 15.0), {"kind": "step", "step": "broken"}, {"kind": "step", "step": 99},
        {"kind": "start", "step": 4, "start": 3, "elapsed_s": 10.0},
        step_line(8, 3, 20.0), {"kind": "checkpoint", "step": 8, "stall_s": 1.5, "start": 3, "elapsed_s": 22.0},
        step_line(12, 3, 31.0), {"kind": "checkpoint", "step": 12, "stall_s": 0.5, "start": 3, "elapsed_s": 35.0},
        {"kind": "end", "step": 12, "outcome": "finished", "asked_by": "", "save_wait_s": 4.0, "start": 3, "elapsed_s": 35.5},
    )  # fmt: skip
    return made


def test_a_step_is_lost_where_any_later_start_went_on_before_it(folder: Folder) -> None:
    found = folder.attempts()
    assert [(a.step, a.last_step, a.kept_to, a.lost_steps) for a in found] == [
        (0, 9, 4, 5),
        (6, 8, 6, 2),
        (4, 12, 12, 0),
    ]


def test_hours_are_durations_of_the_records_and_what_is_left(folder: Folder) -> None:
    first, second, third = map(hours_of, folder.attempts())
    hour = 4 / 3600  # of four ranks
    assert first is not None and second is not None and third is not None
    assert (first.useful, first.lost, first.evaluation) == pytest.approx((8 * hour, 10 * hour, 3 * hour))
    assert (first.startup, first.total, first.other) == pytest.approx((10 * hour, 43 * hour, 12 * hour))
    assert (second.useful, second.lost) == pytest.approx((0, 4 * hour))
    # The last save began at the end, so its pause is part of the wait.
    assert (third.save, third.useful) == pytest.approx(((1.5 + 4.0) * hour, 16 * hour))
    together = hours_in_all([first, second, third])
    assert together.total == pytest.approx((43 + 15 + 35.5) * hour)
    assert together.goodput == pytest.approx(24 / 93.5)


def test_time_on_the_clock_and_hours_by_device_are_sums_over_starts(folder: Folder) -> None:
    found = folder.attempts()
    assert elapsed_s_in_all(found) == pytest.approx(43 + 15 + 35.5)
    assert hours_by_device(found) == pytest.approx({"cpu": 4 * (43 + 15 + 35.5) / 3600})
    mixed = replace(folder.starts[1], devices={"H100": 3, "cpu": 1})
    folder.starts[1] = mixed
    by_device = hours_by_device(folder.attempts())
    assert by_device == pytest.approx({"cpu": (4 * 78.5 + 15) / 3600, "H100": 3 * 15 / 3600})
    found[1].elapsed_s = None
    assert elapsed_s_in_all(found) is None and hours_by_device(found) == {"cpu": None}
    assert elapsed_s_in_all([]) is None and hours_by_device([]) == {}


def test_a_run_that_the_next_one_left_early_has_lost_the_rest(folder: Folder) -> None:
    folder.trained_to = 7
    assert [a.lost_steps for a in folder.attempts()] == [5, 2, 5]


def test_lines_of_an_older_version_are_of_the_start_before_them(tmp_path: Path) -> None:
    made = Folder(tmp_path, 9, [start(1, 6)])
    made.log(
        {"kind": "start", "step": 0, "num_ranks": 2, "device": "cpu", "versions": {"torch": "2"}},
        step_line(4, None), step_line(5, None),
        {"kind": "start", "step": 4, "num_ranks": 2, "device": "cpu"},
        step_line(8, None),
        {"kind": "start", "step": 6, "start": 1, "elapsed_s": 10.0}, step_line(9, 1, 17.0),
    )  # fmt: skip
    found = made.attempts()
    assert [(a.number, a.step, a.last_step, a.lost_steps) for a in found] == [
        (None, 0, 5, 1),
        (None, 4, 8, 2),
        (1, 6, 9, 0),
    ]
    old = hours_of(found[0])
    assert old is not None and old.total is None and old.startup is None
    assert (old.useful, old.lost) == pytest.approx((8 * 2 / 3600, 2 * 2 / 3600))
    assert hours_in_all(map(hours_of, found)).total is None
    assert elapsed_s_in_all(found) is None
    assert hours_by_device(found) == {"cpu": None}


def measured(folder: Folder, monkeypatch: pytest.MonkeyPatch, accounts: str, **options: Any) -> Energy:
    """The energy of a folder with a sacct that prints this."""
    command = folder.run_dir / "bin" / "sacct"
    command.parent.mkdir(exist_ok=True)
    command.write_text(f"#!/bin/sh\ncat <<'END'\n{accounts}END\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:/usr/bin:/bin")
    return energy_of([(folder.run_dir, folder.attempts())], co2_g_per_kwh=options.get("co2_g_per_kwh"))


def test_each_share_of_the_energy_has_its_method_and_no_job_counts_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Folder(
        tmp_path, 12, [start(1, 0, job="7"), start(2, 6, job="7"), start(3, 8, job="8"), start(4, 9), start(5, 10)]
    )
    for number, joules in ((1, {"a": 1.0}), (2, {"nvml:0": 5.0}), (4, {"a": 1_000_000.0, "nvml:0": 2_000_000.0})):
        write_energy_file(tmp_path, EnergyFile(start=number, rank=0, host="n", measured_s=1.0, joules=joules))
    found = measured(made, monkeypatch, "7|9|3600000\n7.0|9|3000000\n8|9|\n8.0|9|3600000\n", co2_g_per_kwh=50.0)
    assert [(share.job, share.starts, share.joules, share.method) for share in found.shares] == [
        ("7", (1, 2), 3_600_000, SLURM), ("8", (3,), 3_600_000, SLURM_STEPS), (None, (4,), 1_000_000, RAPL),
        (None, (4,), 2_000_000, NVML),
    ]  # fmt: skip
    assert (found.joules, found.without, found.slurm_problem) == (10_200_000, 1, None)
    assert found.co2_g == pytest.approx(10.2 / 3.6 * 50)


def test_without_accounts_or_counters_energy_is_not_known_and_says_why(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = measured(folder, monkeypatch, "", co2_g_per_kwh=50.0)
    assert (nothing.joules, nothing.kwh, nothing.co2_g, nothing.without) == (None, None, None, 3)
    assert nothing.slurm_problem == "no start was a Slurm job"
    folder.starts = [start(number, step, job="7") for number, step in ((1, 0), (2, 6), (3, 4))]
    assert "AcctGatherEnergyType" in (measured(folder, monkeypatch, "7|9|0\n").slurm_problem or "")


def test_the_jobs_of_an_older_run_are_those_that_its_launch_folder_notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Folder(tmp_path, 4)
    made.log({"kind": "start", "step": 0}, step_line(4, None))
    (tmp_path / LAUNCH_DIR).mkdir(mode=0o755)
    (tmp_path / LAUNCH_DIR / JOBS_FILE).write_text(
        '{"event": "started", "job": "5"}\n{"event": "started", "job": "6"}\n'
    )
    both = measured(made, monkeypatch, "5|1|100\n6|1|50\n")
    assert (both.joules, both.without) == (150, 0)
    one = measured(made, monkeypatch, "5|1|100\n6|1|0\n")
    assert (one.joules, one.without) == (100, 1)


def test_a_job_that_counted_twice_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Folder(tmp_path, 12, [start(1, 0, job="7"), start(2, 6, job="7")])
    account = slurm_energy_module._account
    monkeypatch.setattr(slurm_energy_module, "_account", lambda job, text: account(job, text + text))
    assert measured(made, monkeypatch, "7|9|3600000\n").joules != 3_600_000
    monkeypatch.setattr(slurm_energy_module, "_account", account)
    assert measured(made, monkeypatch, "7|9|3600000\n").joules == 3_600_000
    assert energy_module.jobs_noted(tmp_path) == []


def test_what_a_chain_of_jobs_decided_is_of_the_start_that_it_was_about(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    made = Folder(tmp_path, 12, [start(1, 0, job="7"), start(2, 6, job="7"), start(3, 8, job="9")])
    made.log()
    attempts = made.attempts()
    launch = tmp_path / LAUNCH_DIR
    launch.mkdir(mode=0o755)
    lines = [
        {"event": "started", "job": "7", "restart": 0}, {"event": "started", "job": "7", "restart": 1},
        {"event": "decided", "job": "7", "restart": 0, "action": "requeue", "reason": "a rank crashed"},
        {"event": "decided", "job": "7", "restart": 1, "action": "stop", "reason": "damage"},
        {"event": "started", "job": "9", "restart": 0}, {"event": "started", "job": "9", "restart": 1},
        {"event": "decided", "job": "9", "restart": 0, "action": "requeue", "reason": "no file of one of its starts"},
    ]  # fmt: skip
    (launch / JOBS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (launch / JOBS_FILE).chmod(0o644)
    found = decisions_of(tmp_path, attempts)
    assert [found.get(id(attempt)) for attempt in attempts] == ["requeue: a rank crashed", "stop: damage", None]
    (launch / JOBS_FILE).chmod(0o666)
    assert decisions_of(tmp_path, attempts) == {}
