"""A run beside its plan, and what a job's decision notes of its steps."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch import slurm
from launch.chain import job, jobs_file
from launch.chain.slow import slow_notice, slow_reasons
from launch.chain.step_times import step_times
from launch.planning.calibration import calibration_path
from launch.planning.expected import expected_step
from launch.planning.place import Place
from launch.planning.plan import make_plan
from launch.sites.schema import SlowStepConfig
from launch.sites.site import load_site, read_site
from launch.status.status import status
from launch.status.text import lines
from pretrain.config.load import load_run
from pretrain.plan.calibration import CalibratedRun, Calibration, Factors, write_calibration
from pretrain.plan.machine import load_machine
from tests.unit.launch.run_folder import START_S, RunFolder, saved, step, validation

pytestmark = pytest.mark.usefixtures("no_slurm")
SITE = (
    "description: a machine\ngpus_per_node: 4\ngpu_memory_gib: 80\ncores_per_node: 4\nmachine: h100\n"
    "slow_step: {than_plan: 1.5, than_before: 1.2}\n"
)
RANKS = 4
LIMITS = SlowStepConfig(than_plan=1.5, than_before=1.2)


def record(number: int, seconds: float, *, batch: int = 8, ranks: int = RANKS, start: int = 1) -> dict[str, Any]:
    rates = {"tokens_per_second": 1000 / seconds, "tokens_per_second_per_gpu": 1000 / seconds / ranks}
    more = {"global_batch_size": batch, "start": start, "time_unix_s": START_S + number}
    return step(number, step_time_s=seconds, **more) | rates


def planned(folder: Path, config: str) -> tuple[RunFolder, float]:
    """A run of a site with a machine, and the seconds that are planned for its step."""
    run = RunFolder(folder, config)
    (run.path / "launch" / "site.yaml").write_text(SITE)
    read = load_run(run.path / "launch" / "config.yaml")
    expected = expected_step(read, read_site(run.path / "launch" / "site.yaml"), num_ranks=RANKS, global_batch_size=8)
    assert expected is not None
    return run, expected.step_time_s


def test_the_plan_of_a_run_is_that_of_fanal_plan_on_its_site(tmp_path: Path, config: str) -> None:
    run, seconds = planned(tmp_path / "run", config)
    run.metrics(*(record(number, 2 * seconds) for number in range(1, 21)))
    plan = status(run.path)["plan"]
    (tmp_path / "my.yaml").write_text(SITE)
    (tmp_path / "gpus.yaml").write_text(config)
    made = make_plan(
        str(tmp_path / "gpus.yaml"), [], Place(site_name=str(tmp_path / "my.yaml"), nodes=1), top=1, rehearsals=0
    )  # fmt: skip
    assert made.own is not None and plan["step_time_s"] == pytest.approx(made.own.step_s, rel=1e-12)
    assert plan["tokens_per_second_per_gpu"] == pytest.approx(made.own.tokens_per_second_per_gpu)
    assert (plan["machine"], plan["num_ranks"], plan["global_batch_size"]) == ("h100", RANKS, 8)
    assert plan["mfu_full"] == pytest.approx(made.own.mfu_full)
    assert sum(plan["parts_s"].values()) == pytest.approx(plan["step_time_s"])
    assert plan["times_as_long"] == pytest.approx(2) and plan["is_slower"]
    assert plan["real_mfu_full"] == pytest.approx(made.own.mfu_full / 2)


def test_the_plan_is_of_the_batch_that_is_trained_now(tmp_path: Path, config: str) -> None:
    run, seconds = planned(tmp_path / "run", config)
    run.metrics(*(record(number, seconds, batch=8) for number in range(1, 41)))
    run.metrics(*(record(number, seconds, batch=16) for number in range(41, 61)))
    plan = status(run.path)["plan"]
    assert plan["global_batch_size"] == 16 and 1.5 * seconds < plan["step_time_s"] < 2 * seconds
    assert plan["real_step_time_before_s"] is None, "those before were of a smaller batch"


def test_slow_steps_and_pauses_are_told_apart(tmp_path: Path, config: str) -> None:
    run, seconds = planned(tmp_path / "every", config)
    run.metrics(*(record(number, 3 * seconds) for number in range(1, 61)))
    (every,) = status(run.path)["plan"]["slower_parts"]
    assert every.startswith("every step is slow") and "log.profile_from_step" in every

    run, seconds = planned(tmp_path / "some", config)
    run.metrics(*(record(number, seconds * (1 if number % 5 == 0 else 3)) for number in range(1, 61)))
    (some,) = status(run.path)["plan"]["slower_parts"]
    assert some.startswith("some steps are slow") and "wait for something" in some

    run, seconds = planned(tmp_path / "data", config)
    run.metrics(*(record(number, 3 * seconds) | {"data_wait_s": 1.8 * seconds} for number in range(1, 61)))
    assert "60.0% of it" in status(run.path)["plan"]["slower_parts"][1]

    run, seconds = planned(tmp_path / "pauses", config)
    run.metrics(*(record(number, seconds) for number in range(1, 61)))
    run.metrics(validation(60, 3.0) | {"validation_time_s": 50 * seconds}, saved(60) | {"stall_s": 25 * seconds})
    validations, saves = status(run.path)["plan"]["slower_parts"]
    assert validations.startswith("a validation takes") and "33.3% of the time" in validations
    assert saves.startswith("a save stops the training") and "20.0% of the time" in saves
    assert not status(run.path)["plan"]["is_slower"]


def test_a_run_as_fast_as_planned_has_nothing_slower(tmp_path: Path, config: str) -> None:
    run, seconds = planned(tmp_path / "run", config)
    run.metrics(*(record(number, 1.4 * seconds) for number in range(1, 61)))
    found = status(run.path)
    assert found["plan"]["slower_parts"] == [] and not found["plan"]["is_slower"]
    rows = dict(lines(found))
    assert rows["against plan"].endswith("1.40 times as long") and rows["plan"].endswith("on 4 x h100")
    assert rows["planned parts"] == "host 79%, rest 20%" and "slower" not in rows


@pytest.mark.parametrize("left_out", ["machine: h100\n", "site"])
def test_a_run_without_a_known_machine_says_no_more_than_before(tmp_path: Path, config: str, left_out: str) -> None:
    run, seconds = planned(tmp_path / "run", config)
    site = run.path / "launch" / "site.yaml"
    site.write_text("" if left_out == "site" else SITE.replace(left_out, ""))
    run.metrics(*(record(number, 9 * seconds) for number in range(1, 61)))
    found = status(run.path)
    assert (found["plan"], found["plan_problem"]) == (None, None)
    assert not {"plan", "against plan", "planned parts", "slower"} & set(dict(lines(found)))


def test_a_machine_that_cannot_be_read_is_named_and_leaves_the_rest(tmp_path: Path, config: str) -> None:
    run, seconds = planned(tmp_path / "run", config)
    (run.path / "launch" / "site.yaml").write_text(SITE.replace("h100", "h1000"))
    run.metrics(*(record(number, seconds) for number in range(1, 61)))
    found = status(run.path)
    assert found["plan"] is None and "h1000" in found["plan_problem"] and found["step"] == 60
    assert dict(lines(found))["plan"].startswith("not known: ")


def test_medians_are_of_the_newest_start_and_what_is_before_has_its_batch_and_its_ranks() -> None:
    others = [record(number, 0.1, ranks=8) for number in range(1, 20)]
    before = [record(number, 1.0) for number in range(20, 60)]
    now = [record(number, 3.0 if number % 4 else 1.5, start=2) for number in range(60, 80)]
    times = step_times(reversed([*others, *before, *now]))
    assert times is not None and (times.step, times.num_ranks, times.num_records) == (79, RANKS, 20)
    assert (times.median_s, times.fastest_s, times.num_before, times.before_s) == (3.0, 1.5, 40, 1.0)
    assert step_times(reversed([*before, *now[:9]])) is None, "too few records of the newest start"
    assert step_times(reversed(now), since_unix_s=START_S + 79) is not None
    assert step_times(reversed(now), since_unix_s=START_S + 80) is None, (
        "the start that is asked for has logged nothing"
    )
    assert step_times([]) is None


def test_a_calibration_that_is_kept_for_the_site_counts(
    tmp_path: Path, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    run, seconds = planned(tmp_path / "run", config)
    path = calibration_path(site="mine", machine="h100")
    path.parent.mkdir(parents=True)
    kept = CalibratedRun(run_dir="/runs/a", num_ranks=4, steps=20, step_s=2.0, before_s=1.0, after_s=2.0)
    factors = Factors(products=3.0, memory=3.0, communication=3.0, host=3.0)
    write_calibration(
        path, Calibration(machine=load_machine("h100").description, date="2026-11-30", factors=factors, runs=[kept])
    )
    run.metrics(*(record(number, 2 * seconds) for number in range(1, 21)))
    facts = {"name": "fanal-mine", "minutes": 60, "run_dir": str(run.path), "site": "mine"}
    (run.path / "launch" / "job.json").write_text(json.dumps(facts))
    plan = status(run.path)["plan"]
    assert plan["machine"] == "h100, calibrated" and plan["step_time_s"] == pytest.approx(3 * seconds, rel=0.05)
    assert plan["times_as_long"] == pytest.approx(2 * seconds / plan["step_time_s"]) and not plan["is_slower"]


def test_a_notice_needs_more_than_the_site_tolerates(tmp_path: Path, config: str) -> None:
    run, seconds = planned(tmp_path / "run", config)
    read, site = load_run(run.path / "launch" / "config.yaml"), read_site(run.path / "launch" / "site.yaml")
    expected = expected_step(read, site, num_ranks=RANKS, global_batch_size=8)
    times = step_times([record(number, 1.0) for number in range(60, 0, -1)])
    assert times is not None
    for median, before, count in (
        (1.49 * seconds, 1.3 * seconds, 0),
        (1.51 * seconds, 1.5 * seconds, 1),
        (1.4 * seconds, 1.1 * seconds, 1),
        (1.6 * seconds, 1.3 * seconds, 2),
        (1.4 * seconds, None, 0),
    ):
        told = list(slow_reasons(replace(times, median_s=median, before_s=before), expected, LIMITS))
        assert len(told) == count, told


@pytest.mark.parametrize(("factor", "words"), [(1.0, ""), (4.0, "4.00 times the")])
def test_the_decision_after_a_job_notes_slow_steps_and_decides_the_same(
    tmp_path: Path,
    config: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    factor: float,
    words: str,
) -> None:
    run, seconds = planned(tmp_path / "run", config)
    folder = run.path / "launch"
    facts = {
        "name": "fanal-mine",
        "run_dir": str(run.path),
        "nodes": 1,
        "ranks_per_node": RANKS,
        "code_dir": str(tmp_path),
    }
    (folder / "job.json").write_text(json.dumps(facts))
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "SLURM_JOB_NUM_NODES": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(slurm, "ask", lambda *command: "")
    jobs_file.note(folder, "started", job="7", restart=0, nodes=["n1"], step=0)
    (folder / "7-0" / "exit-codes").mkdir(parents=True)
    for rank in range(RANKS):
        (folder / "7-0" / "exit-codes" / f"rank-{rank}").write_text("75")
    began = jobs_file.seconds(jobs_file.read(folder)[-1]["time_utc"])
    run.metrics(*(record(number, factor * seconds) | {"time_unix_s": began + number} for number in range(1, 31)))
    assert job.end(folder, before_training=None, walltime=True) == 75
    decided = next(line for line in jobs_file.read(folder) if line["event"] == "decided")
    assert (decided["action"], decided["reason"]) == (
        "requeue", "stopped with a checkpoint of step 0 (the end of the job was near)",
    )  # fmt: skip
    assert words in decided.get("notice", "") and ("notice" in decided) == bool(words)
    assert ("job 7: notice: a step takes" in capsys.readouterr().err) == bool(words)
    assert ("notice" in dict(lines(status(run.path)))) == bool(words)


def test_a_chain_goes_on_where_steps_cannot_be_compared(
    tmp_path: Path, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, seconds = planned(tmp_path / "run", config)
    run.metrics(*(record(number, 9 * seconds) for number in range(1, 31)))
    (run.path / "launch" / "config.yaml").write_text("model: 7\n")
    site = read_site(run.path / "launch" / "site.yaml")
    assert slow_notice(run.path / "launch", run.path, site, since_unix_s=START_S) == ""
    assert "step times are not compared" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["1.0", ".nan", ".inf", "-2"])
def test_a_ratio_that_is_none_is_refused_and_what_is_advised_works(tmp_path: Path, value: str) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(SITE.replace("than_plan: 1.5", f"than_plan: {value}"))
    with pytest.raises(Exception, match=r"slow_step.than_plan \(.*\) must be a ratio above 1 and finite; 1.5 works"):
        load_site(str(path))
    path.write_text(SITE)
    assert load_site(str(path)).slow_step == LIMITS
