"""W&B and MLflow, the real ones: a run that is killed and goes on is one run there, with the figures of its own log."""

import json
import math
import os
import re
import signal
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fanal.run_progress import metrics
from tests.interop.programs import OTHERS, ROOT, Program, offline, reason_to_skip

PROGRAM = Program("W&B and MLflow", ("wandb", "mlflow", "sqlalchemy", "alembic"), OTHERS, frozenset())
SECRETS = {
    "WANDB_API_KEY": "5ec9e7" * 6 + "abcd",
    "MLFLOW_TRACKING_PASSWORD": "pass-5ec9e7",
    "MLFLOW_TRACKING_TOKEN": "token-5ec9e7",
}


NOT_A_NUMBER = {(3, "train/loss"), (3, "loss_by_domain/a (b)")}
"""Points of the run whose value is NaN, which SQLite keeps as 0 with a mark."""


@dataclass(frozen=True, kw_only=True)
class Written:
    run_dir: Path
    found: dict[str, Any]
    log: list[dict[str, Any]]
    said: str
    """Output of the last start."""
    synced: str
    """Answer of `wandb sync --dry-run`."""


def environment() -> dict[str, str]:
    return {**offline(), **SECRETS}


def called(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [OTHERS, "-W", "ignore", *words], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )  # fmt: skip


def call(*words: str | Path) -> subprocess.CompletedProcess[str]:
    done = called(*words)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def written(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A start that is killed after step 9, and one that goes on from step 4, with other losses, to step 12."""
    if (reason := reason_to_skip(PROGRAM)) is not None:
        if os.environ.get("FANAL_REQUIRE_INTEROP"):
            pytest.fail(reason)
        pytest.skip(reason)
    run_dir = tmp_path_factory.mktemp("sinks") / "a run"
    killed = called("-m", "tests.interop.write_sinks", small_run, run_dir, "0", "9", "killed")
    assert killed.returncode == -signal.SIGKILL, killed.stdout[-2000:] + killed.stderr[-3000:]
    done = call("-m", "tests.interop.write_sinks", small_run, run_dir, "4", "12", "closed")
    found = json.loads(call("-m", "tests.interop.read_sinks", run_dir).stdout.splitlines()[-1])
    synced = call("-m", "wandb", "sync", "--dry-run", *(run_dir / "wandb").glob("offline-run-*"))
    return Written(
        run_dir=run_dir, found=found, log=list(metrics(run_dir)), said=done.stdout + done.stderr,
        synced=synced.stdout + synced.stderr,
    )  # fmt: skip


def figures(log: list[dict[str, Any]], *, first: bool) -> dict[str, dict[int, float]]:
    """Curves of the log, each step as it was logged first, or last; one that is not a number is left out."""
    found = defaultdict[str, dict[int, float]](dict)
    for line in log:
        names = ("loss", "grad_norm", "learning_rate") if line["kind"] == "step" else ()
        named = {f"train/{name}": line[name] for name in names}
        named |= {f"loss_by_domain/{name}": loss for name, loss in line.get("loss_by_domain", {}).items()}
        named |= {f"validation_loss/{name}": loss for name, loss in line.get("validation_loss", {}).items()}
        for name, value in named.items():
            if not (first and line["step"] in found[name]) and value is not None:
                found[name][line["step"]] = value
    return dict(found)


def test_the_run_trained_some_steps_again_and_otherwise(written: Written) -> None:
    """Without that the tests below would prove little."""
    again = [line["step"] for line in written.log if line.get("replay") and line["kind"] == "step"]
    first, last = figures(written.log, first=True), figures(written.log, first=False)
    assert again and any(first["train/loss"][step] != last["train/loss"][step] for step in again)


def test_wandb_has_one_run_with_every_step_as_it_was_trained_last(written: Written) -> None:
    (run,) = written.found["wandb"]
    assert run["id"] == (written.run_dir / "wandb" / "run-id").read_text().strip() and run["exit_code"] == 0
    wanted = figures(written.log, first=False)
    assert "validation_loss/code" in wanted and sorted(map(int, run["history"])) == list(range(1, 13))
    for name, curve in wanted.items():
        seen = {int(step): row[name] for step, row in run["history"].items() if name in row}
        assert {step: value for step, value in seen.items() if value == value} == curve, name
    assert math.isnan(run["history"]["3"]["train/loss"])
    saves = {
        row["checkpoint/step"]: row["checkpoint/stall_s"] for row in run["history"].values() if "checkpoint/step" in row
    }
    assert saves == {2: 0.1 * 4, 6: 0.1 * 8, 10: 0.1 * 12}
    assert run["config"]["optim.lr"] == 0.2 and run["config"]["environment"]["num_ranks"] == "2"


def test_mlflow_has_one_run_with_every_step_as_it_was_trained_first(written: Written) -> None:
    run = written.found["mlflow"]
    assert run["id"] == (written.run_dir / "mlflow" / "run-id").read_text().strip() and run["status"] == "FINISHED"
    for name, curve in figures(written.log, first=True).items():
        seen = sorted((step, value) for step, value in run["metrics"][name.replace("(", "_").replace(")", "_")])
        assert [(step, value) for step, value in seen if value == value and (step, name) not in NOT_A_NUMBER] == sorted(
            curve.items()
        ), name
    assert run["params"]["optim.lr"] == "1.0" and run["tags"]["changed.optim.lr"] == "0.2"
    assert run["tags"]["environment.num_ranks"] == "2" and run["tags"]["environment.start"] == "2"


def test_the_end_says_how_to_send_and_to_show_it_and_what_it_cost(written: Written) -> None:
    folder = Path(written.found["wandb"][0]["file"]).parent
    assert f"`wandb sync '{folder}'` sends it" in written.said, written.said
    assert f"`mlflow ui --backend-store-uri 'sqlite:///{written.run_dir}/mlflow/mlflow.db'` shows it" in written.said
    costs = [float(cost) for cost in re.findall(r"records; ([0-9.]+) s of training's time", written.said)]
    assert len(costs) == 2 and all(cost < 0.5 for cost in costs), written.said


def test_their_own_command_finds_the_one_run_to_send(written: Written) -> None:
    assert Path(written.found["wandb"][0]["file"]).name in written.synced or "1 run" in written.synced, written.synced


def test_no_credential_is_in_any_file(written: Written) -> None:
    files = [path for path in written.run_dir.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    for path in files:
        content = path.read_bytes()
        assert not any(secret.encode() in content for secret in SECRETS.values()), path


def test_the_reader_of_these_tests_sees_a_figure_that_is_off(written: Written) -> None:
    (run,) = written.found["wandb"]
    wanted = figures(written.log, first=False)["train/loss"]
    planted = {**wanted, min(wanted): wanted[min(wanted)] * (1 + 1e-12)}
    assert {int(step): row["train/loss"] for step, row in run["history"].items() if step != "3"} != planted
