"""Weights & Biases: one run for a chain of starts, offline in the run folder unless WANDB_MODE says otherwise.

Its history can only be appended to, while a start trains steps again. So each start writes the whole history, from metrics.jsonl,
and then its own steps, under one id without resuming: what was there under this id is replaced when it is sent.
"""

import contextlib
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fanal.run_folder import WANDB_DIR
from pretrain.log.beside import Beside, beside_training
from pretrain.log.elsewhere import environment, flat_config, identity, keep_identity
from pretrain.log.history import Past, history
from pretrain.log.record import EndRecord, StartRecord
from pretrain.log.scalars import curves_of
from pretrain.log.sink import Opening

PROJECT = "fanal"
FLUSH_S = 5.0
"""Seconds after which what was logged is in the file: so much is lost there when a job is killed, until the next start."""
FINISH_S = 20.0


def open_wandb(opening: Opening) -> contextlib.AbstractContextManager[Beside]:
    """Open the sink; W&B itself is imported in its thread."""
    return beside_training("wandb", lambda: _open_run(opening))


class WandbRun:
    """A run of W&B that is being written."""

    def __init__(self, run: Any, opening: Opening) -> None:
        self._run, self._opening = run, opening
        self._step, self.ended = 0, False

    def take(self, past: Past) -> None:
        """Log the figures of a record at its step. Those of a checkpoint come when it is complete, some steps later."""
        record = past.record
        if isinstance(record, StartRecord):
            self._run.config.update({"environment": environment(record, self._opening.stamp)}, allow_val_change=True)
        self.ended = isinstance(record, EndRecord)
        figures: dict[str, float] = dict(curves_of(record))
        if figures:
            if record.step < self._step:
                figures["checkpoint/step"] = record.step
            self._step = max(self._step, record.step)
            self._run.log(figures, step=self._step)

    def farewell(self) -> str:
        """Return the command that sends an offline run."""
        if not self._run.offline:
            return f"the run is {self._run.url}"
        return f"where there is internet, `wandb sync {shlex.quote(str(Path(self._run.dir).parent))}` sends it"


@contextlib.contextmanager
def _open_run(opening: Opening) -> Iterator[WandbRun]:
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # its own crash reports, which it sends offline too
    import wandb  # pyright: ignore[reportMissingImports]

    folder = opening.run_dir / WANDB_DIR
    number, is_known = identity(folder)
    if not is_known:
        keep_identity(folder, number)
    before = sorted(folder.glob(f"offline-run-*-{number}"))
    run = wandb.init(
        id=number,
        project=os.environ.get("WANDB_PROJECT") or PROJECT,
        name=os.environ.get("WANDB_NAME") or opening.run_dir.name,
        dir=str(opening.run_dir),
        mode=os.environ.get("WANDB_MODE") or "offline",  # type: ignore[arg-type]
        config=flat_config(opening.run),
        settings=wandb.Settings(
            console="off",
            silent=True,
            save_code=False,
            disable_git=True,  # the address of a remote may hold a password
            disable_job_creation=True,
            x_disable_meta=True,
            x_disable_stats=True,  # it would read the GPUs every few seconds
            x_transaction_log_flush_interval=FLUSH_S,
            finish_timeout=FINISH_S,
        ),
    )
    writer = WandbRun(run, opening)
    try:
        for past in history(opening.run_dir, opening.stamp):
            writer.take(past)
        for old in before:  # all of it is in the new one, and in metrics.jsonl
            shutil.rmtree(old)
        yield writer
    finally:
        run.finish(exit_code=0 if writer.ended else 1)
