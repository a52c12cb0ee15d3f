"""Conditions that end a chain before the run's last step: a step, or a loss. ``until.json`` in the launch folder holds them.

The trainer stops after the step itself (pretrain/train/stop.py); a loss is looked for in metrics.jsonl, by ``ranks.py`` while ranks
run. Either way they stop, save, and leave 75, and the decision after the job finds the condition met by a checkpoint. A resume goes
back to a checkpoint: what was logged after it does not count.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from threading import Event
from typing import Any

from fanal.errors import UserError
from fanal.files import write_whole
from fanal.run_folder import JOB, LAUNCH_DIR, METRICS_FILE
from fanal.run_progress import newest_metrics, newest_step
from fanal.shown import shown

UNTIL = "until.json"
TRAIN_RECORDS = 100
"""Number of the newest logged steps whose mean loss counts in a run without validation: one batch alone varies too much."""
LOOK_EVERY_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Until:
    """The conditions of a chain; it ends with the first that is met."""

    step: int | None = None
    loss: float | None = None
    loss_of: str = "validation"
    """``validation``: mean of the newest validation's losses over its domains; ``train``: mean of the last TRAIN_RECORDS logged
    steps, in a run without validation."""

    def words(self) -> str:
        """Return the conditions as a person says them."""
        parts = [f"step {self.step}"] if self.step is not None else []
        parts += [f"{self.loss_name} {self.loss:g} or less"] if self.loss is not None else []
        return ", or ".join(parts) or "its last step"

    @property
    def loss_name(self) -> str:
        """Name of the loss that counts, in words."""
        return "validation loss" if self.loss_of == "validation" else f"train loss over {TRAIN_RECORDS} logged steps"


def asked_until(
    run_dir: Path, *, step: int | None, loss: float | None, train_steps: int | None, has_validation: bool
) -> Until:
    """Return the conditions that a user asks for, if they make sense for this run.

    Args: train_steps: the run's last step; None where the config does not say it.
    Raises: UserError naming the option, its value, the rule and what works.
    """
    until = Until(step=step, loss=loss, loss_of="validation" if has_validation else "train")
    newest = newest_step(run_dir)
    if step is not None:
        last = math.inf if train_steps is None else train_steps
        if not newest < step <= last:
            bounds = (
                f"above the step of the newest checkpoint ({newest})"
                if step <= newest
                else f"at most the run's last step ({last})"
            )
            works = (
                f"--until-step {newest + 1 if step <= newest else last} works"
                if newest < last
                else "leave it out: the run is complete"
            )
            raise UserError(f"--until-step ({step}) must be {bounds}; {works}")
    if loss is not None:
        if not (math.isfinite(loss) and loss > 0):
            raise UserError(f"--until-loss ({loss:g}) must be a loss in nats above 0; --until-loss 2.5 works")
        if (now := current_loss(run_dir, until.loss_of)) is not None and now[1] <= loss:
            raise UserError(
                f"--until-loss ({loss:g}) must be below the {until.loss_name} of step {now[0]} ({now[1]:.4f}), which is reached; "
                f"--until-loss {now[1] * 0.99:.4g} works"
            )
    return until


def write_until(folder: Path, until: Until) -> None:
    """Keep the conditions in a launch folder; none of them removes the file. Raises: OSError."""
    if until.step is None and until.loss is None:
        (folder / UNTIL).unlink(missing_ok=True)
    else:
        write_whole(folder / UNTIL, json.dumps(asdict(until)) + "\n")


def read_until(folder: Path) -> Until:
    """Return the conditions in a launch folder; none where there is no file. Raises: UserError naming what is wrong with it."""
    path = folder / UNTIL
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        until = Until(**found)
    except FileNotFoundError:
        return Until()
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} must be what `fanal launch chain` writes ({shown(str(error))}); without the file no condition counts"
        ) from None
    numbers = (None, int), (None, int, float)
    for name, value, kinds in zip(("step", "loss"), (until.step, until.loss), numbers, strict=True):
        if value is not None and (type(value) not in kinds or not value > 0):
            raise UserError(
                f'{path}: {name} ({shown(value)}) must be a number above 0, or null; {{"step": 5000}} works'
            )
    if until.loss_of not in ("validation", "train"):
        raise UserError(f'{path}: loss_of ({shown(until.loss_of)}) must be "validation" or "train"; "train" works')
    return until


def reached(run_dir: Path) -> str:
    """Return why the chain of a run ends here, as its checkpoints have it; empty if it does not, or if the file cannot be read."""
    try:
        until = read_until(run_dir / LAUNCH_DIR)
    except UserError:
        return ""  # ``watch`` says so
    newest = newest_step(run_dir)
    if until.step is not None and newest >= until.step:
        return f"--until-step {until.step} is reached: the newest checkpoint is of step {newest}"
    found = None if until.loss is None else current_loss(run_dir, until.loss_of)
    if until.loss is not None and found is not None and found[1] <= until.loss and newest >= found[0]:
        return (
            f"--until-loss {until.loss:g} is reached: the {until.loss_name} of step {found[0]} is {found[1]:.4f}, and the newest "
            f"checkpoint is of step {newest}"
        )
    return ""


def watch(folder: Path, stop: Callable[[], None], ended: Event, say: Callable[[str], None]) -> None:
    """Look while ranks run, and call ``stop`` once when a condition is met. Runs in a thread of its own."""
    run_dir, last, warned = folder.parent, None, ""
    while not ended.wait(LOOK_EVERY_S):
        try:
            state = [_stamp(run_dir / METRICS_FILE), _stamp(folder / UNTIL)]
            if state == last:
                continue
            last, until = state, read_until(folder)
            if is_met(run_dir, until):
                say(f"asked to stop: {until.words()} is reached")
                return stop()
        except (OSError, UserError) as error:
            if str(error) != warned:
                warned = str(error)
                say(f"warning: {warned}")
    return None


def is_met(run_dir: Path, until: Until) -> bool:
    """Return whether what was logged meets a condition, saved or not."""
    if until.step is not None:
        step = next((record["step"] for record in _timeline(run_dir, "step")), 0)
        if step >= until.step:
            return True
    found = None if until.loss is None else current_loss(run_dir, until.loss_of)
    return until.loss is not None and found is not None and found[1] <= until.loss


def current_loss(run_dir: Path, loss_of: str) -> tuple[int, float] | None:
    """Return (step, loss) as the run stands; None if it was not measured yet, or over fewer than TRAIN_RECORDS steps."""
    if loss_of == "validation":
        for record in _timeline(run_dir, "validation"):
            by_domain = record.get("validation_loss")
            if isinstance(by_domain, dict) and by_domain:
                return record["step"], fmean(by_domain.values())
        return None
    losses: list[float] = []
    first = None
    for record in _timeline(run_dir, "step"):
        first = record["step"] if first is None else first
        losses.append(record["loss"])
        if len(losses) == TRAIN_RECORDS:
            return first, fmean(losses)
    return None


def last_step_of(folder: Path) -> tuple[int | None, bool]:
    """Return (the run's last step, whether it validates) by the config in a launch folder. Raises: UserError if there is none."""
    from launch.chain.script import CONFIG
    from pretrain.config.load import load_run

    if not (folder / JOB).is_file():
        raise UserError(
            f"{folder.parent} must be the folder of a run with jobs, with {LAUNCH_DIR}/{JOB}; `fanal launch submit` makes it"
        )
    run = load_run(folder / CONFIG, [])
    return run.train.train_steps, bool(run.data.validation)


def _timeline(run_dir: Path, kind: str) -> Iterator[dict[str, Any]]:
    """Yield the records of a kind, newest first, without those of steps that were trained again after a resume."""
    limit = math.inf
    for record in newest_metrics(run_dir, kinds=("start", kind)):
        step = record.get("step")
        if not isinstance(step, int):
            continue
        if record["kind"] == "start":
            limit = min(limit, step)
        elif step <= limit:
            yield record


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns
