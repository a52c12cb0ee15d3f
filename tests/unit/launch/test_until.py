"""Conditions that end a chain: which loss counts, what a resume takes back, what is refused."""

import json
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from fanal.errors import UserError
from fanal.run_folder import COMPLETE, checkpoints_dir, step_name
from launch.__main__ import cli
from launch.chain import until
from launch.chain.until import Until, asked_until, current_loss, is_met, reached, read_until, write_until


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "launch").mkdir()
    return tmp_path


def log(run_dir: Path, *records: dict[str, object]) -> None:
    with (run_dir / "metrics.jsonl").open("a") as stream:
        stream.writelines(json.dumps(record) + "\n" for record in records)


def validation(step: int, **losses: float) -> dict[str, object]:
    return {"kind": "validation", "step": step, "validation_loss": losses}


def checkpoint(run_dir: Path, step: int) -> None:
    folder = checkpoints_dir(run_dir) / step_name(step)
    folder.mkdir(parents=True)
    (folder / COMPLETE).touch()


def test_the_validation_loss_is_the_mean_over_domains_and_counts_once_a_checkpoint_has_it(run_dir: Path) -> None:
    write_until(run_dir / "launch", Until(loss=2.5))
    log(run_dir, {"kind": "start", "step": 0}, validation(10, code=2.0, prose=4.0))
    assert current_loss(run_dir, "validation") == (10, 3.0) and not is_met(run_dir, Until(loss=2.5))
    log(run_dir, validation(20, code=2.0, prose=3.0))
    assert is_met(run_dir, Until(loss=2.5)) and reached(run_dir) == "", "nothing of it is saved"
    checkpoint(run_dir, 20)
    assert reached(run_dir).startswith("--until-loss 2.5 is reached: the validation loss of step 20 is 2.5000")
    assert not is_met(run_dir, Until(loss=2.49))


def test_what_a_resume_takes_back_does_not_count(run_dir: Path) -> None:
    log(
        run_dir,
        {"kind": "start", "step": 0},
        validation(10, a=3.0),
        {"kind": "step", "step": 25, "loss": 2.0},
        validation(20, a=2.0),
    )
    checkpoint(run_dir, 10)
    log(run_dir, {"kind": "start", "step": 10})
    assert current_loss(run_dir, "validation") == (10, 3.0)
    assert not is_met(run_dir, Until(step=20)) and not is_met(run_dir, Until(loss=2.0))


def test_without_validation_the_last_hundred_logged_steps_count(run_dir: Path) -> None:
    log(run_dir, *({"kind": "step", "step": step, "loss": 5.0 if step <= 50 else 1.0} for step in range(1, 100)))
    assert current_loss(run_dir, "train") is None
    log(run_dir, {"kind": "step", "step": 100, "loss": 1.0})
    assert current_loss(run_dir, "train") == (100, 3.0)


def test_a_step_is_reached_by_a_checkpoint(run_dir: Path) -> None:
    write_until(run_dir / "launch", Until(step=20))
    checkpoint(run_dir, 19)
    assert reached(run_dir) == ""
    checkpoint(run_dir, 21)
    assert reached(run_dir) == "--until-step 20 is reached: the newest checkpoint is of step 21"
    write_until(run_dir / "launch", Until())
    assert reached(run_dir) == ""


@pytest.mark.parametrize(
    ("asked", "message", "works"),
    [
        ({"step": 0}, r"--until-step \(0\) must be above the step of the newest checkpoint \(10\)", {"step": 11}),
        ({"step": 10}, r"--until-step \(10\) must be above .*; --until-step 11 works", {"step": 11}),
        (
            {"step": 41},
            r"--until-step \(41\) must be at most the run's last step \(40\); --until-step 40 works",
            {"step": 40},
        ),
        (
            {"loss": float("nan")},
            r"--until-loss \(nan\) must be a loss in nats above 0; --until-loss 2.5 works",
            {"loss": 2.5},
        ),
        ({"loss": 0.0}, r"--until-loss \(0\) must be a loss in nats above 0", {"loss": 2.5}),
        (
            {"loss": 3.0},
            r"--until-loss \(3\) must be below the validation loss of step 10 \(3.0000\).*; --until-loss 2.97 works",
            {"loss": 2.97},
        ),
    ],
)
def test_what_makes_no_sense_is_refused(
    asked: dict[str, float], message: str, works: dict[str, float], run_dir: Path
) -> None:
    checkpoint(run_dir, 10)
    log(run_dir, validation(10, a=3.0))
    rest = {"train_steps": 40, "has_validation": True}
    with pytest.raises(UserError, match=message):
        asked_until(run_dir, **{"step": None, "loss": None, **asked}, **rest)  # type: ignore[arg-type]
    asked_until(run_dir, **{"step": None, "loss": None, **works}, **rest)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"step": "5"}', '{"step": 0}', '{"loss": true}', '{"loss_of": "mine"}', '{"x": 1}']
)
def test_a_file_that_was_broken_by_hand_counts_for_nothing(text: str, run_dir: Path) -> None:
    (run_dir / "launch" / "until.json").write_text(text)
    checkpoint(run_dir, 10)
    with pytest.raises(UserError, match=r"until\.json"):
        read_until(run_dir / "launch")
    assert reached(run_dir) == ""


def test_the_watch_asks_once_and_follows_a_change_of_the_condition(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(until, "LOOK_EVERY_S", 0.01)
    asked, said = threading.Event(), list[str]()
    log(run_dir, {"kind": "step", "step": 7, "loss": 1.0})
    (run_dir / "launch" / "until.json").write_text("{")
    watch = threading.Thread(target=until.watch, args=(run_dir / "launch", asked.set, threading.Event(), said.append))
    watch.start()
    assert not asked.wait(0.2)
    write_until(run_dir / "launch", Until(step=7))
    assert asked.wait(20)
    watch.join(20)
    assert [line.partition(":")[0] for line in said] == ["warning", "asked to stop"]


def test_the_condition_of_a_chain_is_shown_set_and_taken_away(run_dir: Path, small_run: Path) -> None:
    def chain(*options: str) -> str:
        done = CliRunner().invoke(cli, ["chain", str(run_dir), *options])
        return done.output if done.exit_code == 0 else f"{done.exit_code}: {done.stderr}"

    assert chain().startswith("2: error:") and "`fanal launch submit` makes it" in chain()
    (run_dir / "launch" / "job.json").write_text("{}")
    (run_dir / "launch" / "config.yaml").write_text(small_run.read_text())
    assert chain().endswith("until its last step\n")
    assert chain("--until-step", "3", "--until-loss", "1.5").endswith("until step 3, or validation loss 1.5 or less\n")
    assert chain().endswith("until step 3, or validation loss 1.5 or less\n")
    assert "must stand alone" in chain("--no-until", "--until-step", "3")
    assert chain("--no-until").endswith("until its last step\n") and not (run_dir / "launch" / "until.json").exists()
