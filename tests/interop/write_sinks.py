"""One start of a run as its sinks see it: records from a step on, of losses that its number changes; killed at the end, or closed."""

import contextlib
import os
import signal
import sqlite3
import sys
import time
from dataclasses import replace
from pathlib import Path

from pretrain.checkpoint.saving.save import SaveReport
from pretrain.config.load import load_run
from pretrain.log.record import EndRecord, StartRecord, ValidationRecord
from pretrain.log.sinks import open_sinks
from tests.unit.log.test_sinks import STEP, WORLD


def wait_until_stored(store: Path, step: int) -> None:
    """Wait for the thread of MLflow, whose figures are on the disk when its tag is; W&B's lie in a buffer then."""
    query, until = "SELECT value FROM tags WHERE key = 'fanal.last_step.StepRecord'", time.monotonic() + 90
    while time.monotonic() < until:
        with (
            contextlib.suppress(sqlite3.Error),
            contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as there,
        ):
            if there.execute(query).fetchall() == [(str(step),)]:
                return
        time.sleep(0.2)
    raise TimeoutError(f"step {step} is not in {store}")


def main(config: str, run_dir: str, start_step: int, last_step: int, is_killed: bool) -> None:
    run = load_run(config, [f"run_dir={run_dir}", "log.sinks=[wandb,mlflow]", f"optim.lr={1 / (1 + start_step)}"])
    with open_sinks(run, WORLD, start_step=start_step) as sinks:
        sinks.write(
            StartRecord(
                step=start_step,
                train_steps=20,
                headline="a headline",
                device="cpu",
                num_ranks=2,
                versions={"torch": "2"},
                passes={},
            )
        )
        for step in range(start_step + 1, last_step + 1):
            loss = float("nan") if step == 3 else 5 / step + 0.1 * start_step
            sinks.write(replace(STEP, step=step, loss=loss, loss_by_domain={"a (b)": loss + 1 / 3}))
            if step % 2 == 0:
                sinks.write(
                    ValidationRecord(
                        step=step, consumed_tokens=0, validation_loss={"code": loss / 7}, validation_time_s=1
                    )
                )
            if step % 4 == 0:
                sinks.write(SaveReport(step=step - 2, path="x", num_bytes=1, stall_s=0.1 * step, save_s=1.0))
        if is_killed:
            wait_until_stored(Path(run_dir, "mlflow", "mlflow.db"), last_step)
            os.kill(os.getpid(), signal.SIGKILL)
        sinks.write(EndRecord(step=last_step, outcome="finished", asked_by="", checkpoint=None))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == "killed")
