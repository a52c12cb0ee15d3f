"""Factors fitted to the steps of runs: they find what a machine really does, keep to their machine, and are named by plans."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.plan_speed import rank_correlation
from fanal.errors import UserError
from launch.planning.calibration import CalibrationRequest, calibrated_machine, calibration_path
from launch.planning.command import plan as command
from launch.planning.place import Nodes, Place, where
from pretrain.config.load import load_run
from pretrain.log.start_file import Code, StartFile, write_start_file
from pretrain.plan.calibration import (
    CalibratedRun,
    Calibration,
    Factors,
    calibrate,
    calibrated,
    plan_of,
    read_calibration,
    write_calibration,
)
from pretrain.plan.machine import MACHINES, load_machine
from pretrain.plan.run_log import LoggedRun, logged_run

H100 = load_machine("h100")
TRUTH = Factors(products=1.4, memory=1.8, communication=2.5, host=1.0)
"""What the machine of these tests really does."""
LAYOUTS: dict[str, tuple[str, ...]] = {
    "data 8": (),
    "tensor 4": (
        "parallel.tensor_model_parallel_size=4", "parallel.sequence_parallel=true", "train.micro_batch_size=8",
    ),
    "pipeline 4": ("parallel.pipeline_model_parallel_size=4",),
    "recomputed": ("train.recompute=full",),
    "context 2": ("parallel.context_parallel_size=2", "train.micro_batch_size=8"),
}  # fmt: skip


def ran(name: str, factors: Factors = TRUTH) -> LoggedRun:
    run = load_run("configs/1b.yaml", LAYOUTS[name])
    logged = LoggedRun(
        run_dir=name, run=run, num_ranks=8, num_nodes=1, device_name="NVIDIA H100 80GB HBM3", step_s=1.0, steps=20
    )
    return replace(logged, step_s=plan_of(logged, calibrated(H100, factors)).step_s)


def worst(factors: Factors) -> float:
    runs = [ran(name) for name in LAYOUTS]
    return max(abs(plan_of(one, calibrated(H100, factors)).step_s / one.step_s - 1) for one in runs)


def test_factors_of_a_few_runs_foretell_the_others() -> None:
    found = calibrate([ran("data 8"), ran("tensor 4")], H100, date="2026-11-30")
    assert found.worst_before > 0.25 and found.worst_after < 0.01
    assert worst(found.factors) < 0.02 < 0.25 < worst(Factors())
    assert found.factors.communication > found.factors.products > 1


def test_a_planted_wrong_factor_shows() -> None:
    found = calibrate([ran("data 8"), ran("tensor 4")], H100, date="2026-11-30").factors
    assert worst(replace(found, products=2 * found.products)) > 0.3
    assert worst(replace(found, communication=found.communication / 4)) > 0.3


def test_a_machine_that_is_as_planned_needs_no_factors() -> None:
    found = calibrate([ran(name, Factors()) for name in LAYOUTS], H100, date="2026-11-30")
    assert asdict(found.factors) == pytest.approx(asdict(Factors()), abs=1e-6)
    assert found.worst_before == 0


def test_a_part_that_no_run_has_keeps_its_figure() -> None:
    found = calibrate([ran("data 8")], H100, date="2026-11-30").factors
    assert found.host == pytest.approx(1) and found.communication < 1.1 < found.products


def test_a_run_of_another_machine_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"\(data 8\) ran on NVIDIA A100.*device_name of NVIDIA H100 SXM, 80 GB is NVIDIA H100"
    ):
        calibrate([replace(ran("data 8"), device_name="NVIDIA A100-SXM4-80GB")], H100, date="")
    with pytest.raises(UserError, match=r"had 16 ranks on a node, .* has room for 8"):
        calibrate([replace(ran("data 8"), num_ranks=16)], H100, date="")
    calibrate([replace(ran("data 8"), num_ranks=16, num_nodes=2)], H100, date="")


def test_what_is_kept_is_read_back_and_of_its_machine_alone(tmp_path: Path) -> None:
    path = tmp_path / "kept.yaml"
    assert read_calibration(path, H100) is None
    found = calibrate([ran("data 8")], H100, date="2026-11-30")
    write_calibration(path, found)
    assert read_calibration(path, H100) == found
    with pytest.raises(UserError, match=r"is of NVIDIA H100 SXM.*--no-calibration plans without it"):
        read_calibration(path, load_machine("a100-80"))
    path.write_text(path.read_text().replace("host: ", "host: -"))
    with pytest.raises(UserError, match=r"factors must be from 1e-06 to 1e\+06"):
        read_calibration(path, H100)
    for changed in ({"step_s": 0.0}, {"before_s": math.nan}, {"after_s": -1.0}):
        write_calibration(path, replace(found, runs=[replace(found.runs[0], **changed)]))
        with pytest.raises(
            UserError, match=r"times of a run must be above 0 and finite .*--calibrate RUN_DIR writes it anew"
        ):
            read_calibration(path, H100)


def test_a_calibration_lies_beside_its_file_or_in_the_users_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert calibration_path(site=None, machine="a/mine.yaml") == Path("a/mine.calibration.yaml")
    assert calibration_path(site="b/site.yaml", machine="h100") == Path("b/site.calibration.yaml")
    assert calibration_path(site="jean-zay-h100", machine="h100") == tmp_path / "fanal/calibrations/jean-zay-h100.yaml"
    assert calibration_path(site=None, machine="h100") == tmp_path / "fanal/calibrations/h100.yaml"
    with pytest.raises(UserError, match="must stand without --no-calibration"):
        calibrated_machine(
            Nodes(machine=H100, machine_name="h100", num_gpus=8), CalibrationRequest(run_dirs=["runs/x"], ignored=True)
        )


def test_a_machine_that_is_not_the_site_s_has_a_file_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    settings = tmp_path / "fanal/calibrations"

    def of(site: str, machine: str) -> Path:
        return calibration_path(site=site, machine=machine, is_own=False)

    assert of("jean-zay-h100", "h200") == settings / "jean-zay-h100.h200.yaml"
    assert of("b/site.yaml", "h200") == Path("b/site.h200.calibration.yaml")
    assert of("jean-zay-h100", "a/mine.yaml") == Path("a/mine.jean-zay-h100.calibration.yaml")
    assert of("b/site.yaml", "a/mine.yaml") == Path("a/mine.site.calibration.yaml")


def test_without_a_home_the_settings_folder_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setattr(Path, "expanduser", unknown)
    with pytest.raises(UserError, match=r"XDG_CONFIG_HOME is not set.* export XDG_CONFIG_HOME=\S+ works") as caught:
        calibration_path(site=None, machine="h100")
    monkeypatch.undo()
    works = str(caught.value).split("XDG_CONFIG_HOME=")[1].split()[0]
    monkeypatch.setenv("XDG_CONFIG_HOME", works)
    assert calibration_path(site=None, machine="h100") == Path(works) / "fanal/calibrations/h100.yaml"
    monkeypatch.setenv("XDG_CONFIG_HOME", "~nobody-of-this-name")
    with pytest.raises(UserError, match=r"XDG_CONFIG_HOME \(~nobody-of-this-name\) must name"):
        calibration_path(site=None, machine="h100")


def test_a_calibration_that_is_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "kept.yaml").mkdir()
    with pytest.raises(UserError, match=r"calibration \S+kept\.yaml is not readable YAML: .*directory"):
        read_calibration(tmp_path / "kept.yaml", H100)


RunMaker = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> RunMaker:
    """Write the folder of a run of 1b.yaml with 8 ranks whose steps take what the machine of these tests takes."""

    def make(name: str = "run", *, times: list[float] | None = None, layout: str = "data 8", **start: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        logged = ran(layout)
        config = asdict(replace(logged.run, run_dir=str(folder), log=replace(logged.run.log, interval=1)))
        facts: dict[str, Any] = {"num_ranks": 8, "hosts": ("node1",), "devices": {logged.device_name: 8}} | start
        made = StartFile(
            number=1, time_unix_s=1.5e9, startup_s=1.0, step=0, consumed_samples=0, decay_start_sample=None, config=config,
            code=Code(version="0", commit=None, modified=None), versions={}, device_type="cuda", user="ada", job=None,
            sources=(), validation_sources=(), origin=None, changes=(), **facts,
        )  # fmt: skip
        write_start_file(folder, made)
        times = [30.0, 9.0, 4.0, *[logged.step_s] * 12] if times is None else times
        lines = [
            {"kind": "step", "step": at + 1, "step_time_s": time_s, "global_batch_size": 256, "start": 1}
            for at, time_s in enumerate(times)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder

    return make


def test_the_first_steps_of_a_start_do_not_count(make_run: RunMaker) -> None:
    found = logged_run(make_run())
    assert (found.step_s, found.steps) == (ran("data 8").step_s, 12)
    assert (found.num_ranks, found.ranks_per_node, found.device_name) == (8, 8, "NVIDIA H100 80GB HBM3")


def test_runs_that_say_too_little_are_refused(make_run: RunMaker, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be the folder of a run that has started"):
        logged_run(tmp_path)
    with pytest.raises(UserError, match=r"and has 9; a run of 13 steps with log\.interval=1 works"):
        logged_run(make_run("short", times=[2.0] * 12))
    assert logged_run(make_run("enough", times=[2.0] * 13)).steps == 10
    with pytest.raises(UserError, match="steps of one pace"):
        logged_run(make_run("disturbed", times=[*[2.0] * 10, *[5.0] * 9]))


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("step", "ten", r'step \("ten"\) must be a number of steps'),
        ("step", None, r"step \(null\) must be"),
        ("start", [1], r"start \(\[1\]\) must be the number of a start"),
        ("global_batch_size", 2.5, r"global_batch_size \(2\.5\) must be a number of samples"),
        ("step_time_s", 0, r"step_time_s \(0\) must be seconds above 0"),
        ("step_time_s", math.nan, r"step_time_s \(NaN\) must be"),
        ("step_time_s", ..., r"step_time_s must be"),
    ],
)
def test_a_record_that_was_changed_is_named_by_file_line_and_field(
    make_run: RunMaker, field: str, value: Any, says: str
) -> None:
    path = make_run() / "metrics.jsonl"
    lines = path.read_text().splitlines()
    record = json.loads(lines[7]) | {field: value}
    lines[7] = json.dumps({name: one for name, one in record.items() if one is not ...})
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=rf"{path}, line 8: {says}.*; without this line the file works"):
        logged_run(path.parent)
    path.write_text("\n".join(lines[:7] + lines[8:]) + "\n")
    assert logged_run(path.parent).steps == 11


def kept(path: Path, machine: str = H100.description, factor: float = 3.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    factors = Factors(products=factor, memory=factor, communication=factor, host=factor)
    run = CalibratedRun(run_dir="/runs/a", num_ranks=4, steps=20, step_s=2.0, before_s=1.0, after_s=2.0)
    write_calibration(path, Calibration(machine=machine, date="2026-11-30", factors=factors, runs=[run]))


def test_a_site_with_another_machine_keeps_the_site_s_factors_and_reads_what_was_kept_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    of_site, of_both = (tmp_path / f"fanal/calibrations/jean-zay-h100{name}.yaml" for name in ("", ".h200"))

    def said(gpu: str | None) -> str:
        return calibrated_machine(where(Place(site_name="jean-zay-h100", nodes=2, gpu=gpu)), CalibrationRequest()).said

    kept(of_site)
    assert f"by {of_site} " in said(None) and f"by {of_site} " in said("h100") and not said("h200")
    measured = tmp_path / "measured.yaml"  # of one description with the site's machine, and of other figures
    measured.write_text((MACHINES / "h100.yaml").read_text())
    assert not said(str(measured))
    kept(of_site, load_machine("h200").description)  # as an earlier version kept it for --gpu h200
    assert f"by {of_site} " in said("h200") and not said("a100-80")
    kept(of_both, load_machine("h200").description)
    assert f"by {of_both} " in said("h200")


def test_what_is_fitted_for_another_machine_than_the_site_s_is_not_the_site_s(
    make_run: RunMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    mine, run = tmp_path / "mine.yaml", make_run(hosts=("node1", "node2"))
    mine.write_text((MACHINES / "h100.yaml").read_text())
    calibrated_machine(
        where(Place(site_name="jean-zay-h100", nodes=2, gpu=str(mine))), CalibrationRequest(run_dirs=[str(run)])
    ).keep()
    assert (tmp_path / "mine.jean-zay-h100.calibration.yaml").is_file() and not (tmp_path / "settings").exists()


def test_a_ladder_is_planned_with_the_factors_that_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    def ladder(name: str, *words: str) -> Any:
        asked = ["configs/1b.yaml", "--gpus", "8", "--gpu", "h100", "--parts", "1/64", "--json", *words]
        done = CliRunner().invoke(command, [*asked, "--ladder", str(tmp_path / name)])
        assert done.exit_code == 0, done.output
        return json.loads(done.output)

    plain = ladder("plain")
    kept(tmp_path / "fanal/calibrations/h100.yaml")
    slower, without = ladder("slower"), ladder("without", "--no-calibration")
    assert (
        plain["calibration"] == without["calibration"] == ""
        and plain["rungs"][0]["gpu_hours"] == without["rungs"][0]["gpu_hours"]
    )
    assert slower["rungs"][0]["gpu_hours"] > 2 * plain["rungs"][0]["gpu_hours"]
    assert slower["calibration"].startswith(f"Calibrated by {tmp_path}/fanal/calibrations/h100.yaml")
    words = ["configs/1b.yaml", "--gpus", "8", "--gpu", "h100", "--parts", "1/64", "--ladder", str(tmp_path / "words")]
    assert "Calibrated by" in CliRunner().invoke(command, words).output


def test_the_command_says_the_error_before_and_after_and_later_plans_name_it(
    make_run: RunMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    one, two = make_run(), make_run("tensor", layout="tensor 4")
    asked = ["configs/1b.yaml", "--gpus", "8", "--gpu", "h100", "--rehearse", "0"]
    plain = CliRunner().invoke(command, asked)
    assert plain.exit_code == 0 and "Calibrated" not in plain.output
    done = CliRunner().invoke(command, [*asked, "--calibrate", str(one), "--calibrate", str(two)])
    assert done.exit_code == 0, done.output
    kept = tmp_path / "settings/fanal/calibrations/h100.yaml"
    assert f"kept in {kept}" in done.output and f"{one}: 8 ranks, 12 steps" in done.output
    later = CliRunner().invoke(command, [*asked, "--json"])
    tree = json.loads(later.output)
    assert tree["calibration"].startswith(f"Calibrated by {kept}")
    assert tree["own"]["step_s"] == pytest.approx(ran("data 8").step_s, rel=0.01)
    without = CliRunner().invoke(command, [*asked, "--no-calibration"])
    assert without.output == plain.output
    again = CliRunner().invoke(command, [*asked, "--json", "--calibrate", str(one)])
    assert len(read_calibration(kept, H100).runs) == 1 and json.loads(again.output), "factors are fitted anew"  # pyright: ignore[reportOptionalMemberAccess]


def test_a_refused_run_writes_nothing(make_run: RunMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    other = make_run(devices={"NVIDIA A100-SXM4-80GB": 8})
    asked = ["configs/1b.yaml", "--gpus", "8", "--gpu", "h100", "--rehearse", "0", "--calibrate", str(other)]
    done = CliRunner().invoke(command, asked)
    assert done.exit_code == 2 and not (tmp_path / "settings").exists()


@pytest.mark.parametrize(
    "wrong", [["--top", "0"], ["--document-tokens", "0"], ["--tokens", "0"]], ids=lambda one: one[0]
)
def test_a_plan_that_is_refused_keeps_no_factors(
    wrong: list[str], make_run: RunMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    asked = [
        "configs/1b.yaml",
        "--gpus",
        "8",
        "--gpu",
        "h100",
        "--rehearse",
        "0",
        "--calibrate",
        str(make_run()),
        *wrong,
    ]
    done = CliRunner().invoke(command, asked)
    assert done.exit_code == 2 and not (tmp_path / "settings").exists()


@pytest.mark.parametrize("step_s", [1e9, 1e-9])
def test_steps_that_no_factors_explain_are_refused_and_what_was_kept_stays(
    step_s: float, make_run: RunMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    before = tmp_path / "settings/fanal/calibrations/h100.yaml"
    kept(before)
    text = before.read_text()
    asked = ["configs/1b.yaml", "--gpus", "8", "--gpu", "h100", "--rehearse", "0"]
    absurd = make_run("absurd", times=[step_s] * 20)
    done = CliRunner().invoke(command, [*asked, "--calibrate", str(absurd)])
    assert done.exit_code == 2 and "which no factors of NVIDIA H100" in done.output and before.read_text() == text
    assert CliRunner().invoke(command, [*asked, "--calibrate", str(make_run())]).exit_code == 0, "as is advised"


def test_the_rank_correlation_is_spearmans() -> None:
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 40]) == 1
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == -1
    assert rank_correlation([1, 2, 3, 4, 5], [2, 1, 4, 3, 5]) == pytest.approx(0.8)
