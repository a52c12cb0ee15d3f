"""The sinks of records: JSON lines, console, and those that a run may have beside them. Only one rank writes; the others hold
sinks that do nothing."""

import contextlib
import dataclasses
import json
import logging
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from fanal.console import Bar, Console
from fanal.new_files import ends_inside_a_line, open_to_append
from fanal.run_folder import METRICS_FILE, STARTS_DIR, cannot_write
from fanal.shown import on_one_line
from pretrain.checkpoint.saving.save import SaveReport
from pretrain.config.schema import LogConfig, RunConfig
from pretrain.log.mlflow_sink import open_mlflow
from pretrain.log.record import DecayRecord, EndRecord, StartRecord, StepRecord, ValidationRecord
from pretrain.log.scalars import Record
from pretrain.log.sink import Opener, Opening, Sink
from pretrain.log.stability_record import StabilityRecord, stability_line
from pretrain.log.stamp import Stamp, last_logged_step
from pretrain.log.start_file import next_start
from pretrain.log.summary import bars_for, duration, summary
from pretrain.log.tensorboard_sink import open_tensorboard
from pretrain.log.wandb_sink import open_wandb
from pretrain.parallel.environment import started_at
from pretrain.parallel.world import World

logger = logging.getLogger(__name__)

KINDS = {
    StartRecord: "start",
    StepRecord: "step",
    ValidationRecord: "validation",
    StabilityRecord: "stability",
    SaveReport: "checkpoint",
    DecayRecord: "decay",
    EndRecord: "end",
}
"""Name of each record in a line of metrics.jsonl."""
OF_A_STEP = (StepRecord, ValidationRecord, StabilityRecord)
"""Records that say what training a step came to: those of a step that was trained again are marked."""
OPENERS: dict[str, Opener] = {"tensorboard": open_tensorboard, "wandb": open_wandb, "mlflow": open_mlflow}
"""Sinks that a run may have beside its own log and the console, a file each."""


class Sinks:
    """All sinks of a rank as one. One that cannot be written, as on a full disk, is named once, and keeps nothing from the
    others: a run goes on without a log of it."""

    def __init__(self, sinks: Sequence[Sink], stamp: Stamp | None = None) -> None:
        """Args: stamp: what every line of this start's logs says; None where there are no sinks."""
        self._sinks, self._named, self.stamp = sinks, set[Sink](), stamp

    def write(self, record: Record) -> None:
        """Give a record to every sink."""
        self._each(lambda sink: sink.write(record))

    def say(self, message: str) -> None:
        """A line for people."""
        self._each(lambda sink: sink.say(message))

    def step_done(self, step: int) -> None:
        """A step without a record of its own; costs microseconds."""
        self._each(lambda sink: sink.step_done(step))

    def _each(self, act: Callable[[Sink], None]) -> None:
        for sink in self._sinks:
            try:
                act(sink)
            except OSError as error:
                # tensorboard raises the same one each time: its traceback would grow, and keep every record.
                error.__traceback__ = None
                if sink not in self._named:
                    self._named.add(sink)
                    logger.warning("%s, and training continues: %s", sink.lost, error.strerror or error)

    def finish(self, run_dir: str) -> None:
        """The run's summary, for people; a rank without sinks reads nothing."""
        if self._sinks:
            for line in summary(Path(run_dir), bars=bars_for(sys.stdout.encoding)):
                self.say(line)


@contextlib.contextmanager
def open_sinks(run: RunConfig, world: World, *, start_step: int) -> Iterator[Sinks]:
    """Rank 0's sinks, appending to what an earlier part of the run wrote. No collective."""
    with contextlib.ExitStack() as stack:
        sinks: list[Sink] = []
        stamp = None
        if world.rank == 0:
            folder = Path(run.run_dir)
            folder.mkdir(parents=True, exist_ok=True)
            # Without a buffer, which its closing would write once more.
            try:
                stream = stack.enter_context(open_to_append(folder / METRICS_FILE))
            except OSError as error:
                raise cannot_write(run.run_dir, f"{METRICS_FILE}: {error.strerror}", error) from None
            stamp = _stamp(folder, start_step)
            sinks.append(JsonLines(stream, str(folder / METRICS_FILE), stamp))
            for name in _chosen(run.log):
                opened = stack.enter_context(OPENERS[name](Opening(run=run, stamp=stamp)))
                sinks += [] if opened is None else [opened]
            sinks.append(stack.enter_context(open_terminal(run.train.train_steps, start_step)))
        yield Sinks(sinks, stamp)


def _chosen(log: LogConfig) -> list[str]:
    return [*(["tensorboard"] if log.tensorboard else []), *dict.fromkeys(log.sinks)]


def _stamp(folder: Path, start_step: int) -> Stamp:
    """What the lines of a start say that begins now. Raises: UserError."""
    try:
        number = next_start(folder)
    except OSError as error:
        raise cannot_write(folder, f"{STARTS_DIR}: {error.strerror}", error) from None
    return Stamp(start=number, began_s=started_at(), start_step=start_step, logged_step=last_logged_step(folder))


class JsonLines:
    """One JSON object a line, written at once; "kind" says which record it is. NaN is written as null.

    What the disk does not take waits here, and follows when there is room.
    """

    def __init__(self, stream: IO[bytes], name: str, stamp: Stamp) -> None:
        """Args: stream: for reading and writing at its end, without a buffer. A line that a kill tore there is ended."""
        self._stamp, self._stream, self.lost = (
            stamp,
            stream,
            f"{name} cannot be written (what is missing follows when it can)",
        )
        self._waiting = b"\n" if ends_inside_a_line(stream) else b""

    def write(self, record: Record) -> None:
        fields = {name: json_value(value) for name, value in dataclasses.asdict(record).items()}
        stamped = self._stamp.fields(step=record.step if isinstance(record, OF_A_STEP) else None)
        line = {"kind": KINDS[type(record)], **fields, **stamped}
        self._waiting += json.dumps(line, allow_nan=False).encode() + b"\n"
        while self._waiting:
            self._waiting = self._waiting[self._stream.write(self._waiting) :]

    def say(self, message: str) -> None: ...

    def step_done(self, step: int) -> None: ...


class Terminal:
    """One line a record; on a terminal a progress bar stays below them."""

    lost = "standard output cannot be written"

    def __init__(self, console: Console, progress: Bar, train_steps: int, start_step: int) -> None:
        self._console, self._progress = console, progress
        self._task = progress.add_task("train", total=train_steps, completed=start_step)
        self._train_steps = train_steps

    def write(self, record: Record) -> None:
        if isinstance(record, StartRecord | DecayRecord):
            self._train_steps = record.train_steps
            self._progress.update(self._task, total=record.train_steps)
        if isinstance(record, StepRecord):
            self.say(step_line(record, self._train_steps))
        elif isinstance(record, StartRecord):
            self.say(record.headline)
        elif isinstance(record, ValidationRecord):
            self.say(validation_line(record))
        elif isinstance(record, StabilityRecord):
            self.say(stability_line(record))
        elif isinstance(record, SaveReport):
            self.say(save_line(record))
        elif isinstance(record, DecayRecord):
            self.say(decay_line(record))
        else:
            self.say(end_line(record, self._train_steps))

    def step_done(self, step: int) -> None:
        self._progress.update(self._task, completed=step)  # its own thread draws it

    def say(self, message: str) -> None:
        try:
            self._console.print(message, soft_wrap=True)
        except OSError:
            # rich keeps the line, to print it with the next; what is beneath has it already.
            with self._console.capture():
                pass
            raise


@contextlib.contextmanager
def open_terminal(train_steps: int, start_step: int) -> Iterator[Terminal]:
    """The console of rank 0, on standard output."""
    console = Console(file=sys.stdout)
    bar = Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with bar:
        yield Terminal(console, bar, train_steps, start_step)


def step_line(record: StepRecord, train_steps: int) -> str:
    """The console line of a step."""
    fields = [
        f"step {record.step:>{len(str(train_steps))}}/{train_steps}",
        f"loss {record.loss:.4f}",
        *([] if record.z_loss is None else [f"z-loss {record.z_loss:.4f}"]),
        f"lr {record.learning_rate:.2e}",
        f"grad norm {record.grad_norm:.3f}",
        f"tokens/s/GPU {record.tokens_per_second_per_gpu:,.0f}",
        *_mfu(record),
        _memory(record),
        f"ETA {duration(record.eta_s)}",
    ]
    if record.skipped_steps:
        fields.append(f"skipped {record.skipped_steps}")
    return " | ".join(fields)


def end_line(record: EndRecord, train_steps: int) -> str:
    """Return one line about how the run ended."""
    if record.outcome == "finished":
        return f"complete: step {record.step} of {train_steps}"
    left = f"checkpoint: {record.checkpoint}" if record.checkpoint else "nothing to save, no step was done"
    return f"stopped on request ({record.asked_by}); {left}"


def decay_line(record: DecayRecord) -> str:
    """Return one line about a decay that begins: where it ends, and where the run does."""
    line = (
        f"the final decay of the learning rate begins after step {record.step} ({record.asked_by}): {record.style}, from sample "
        f"{record.start_sample:,} to {record.end_sample:,}; the run ends with step {record.train_steps}"
    )
    if record.steps_to_its_end <= record.train_steps:
        return line
    return (
        f"{line}, before its end, at a rate of {record.last_learning_rate:.2e}: a resume with "
        f"train.train_steps={record.steps_to_its_end} comes to the end of the decay"
    )


def validation_line(record: ValidationRecord) -> str:
    """The console line of a validation."""
    line = f"validation loss after step {record.step}: {_losses(record.validation_loss)}"
    return (
        line if record.ema_validation_loss is None else f"{line}; of the average: {_losses(record.ema_validation_loss)}"
    )


def _losses(by_domain: dict[str, float]) -> str:
    return "  ".join(f"{on_one_line(domain)} {loss:.4f}" for domain, loss in by_domain.items())


def save_line(record: SaveReport) -> str:
    """The console line of a checkpoint."""
    if record.failure is not None:
        return f"NO CHECKPOINT of step {record.step}, and training continues: {record.failure}"
    line = (
        f"checkpoint: {record.path} ({record.num_bytes / 2**30:.2f} GiB; paused training for {record.stall_s:.3f} s, complete "
        f"after {record.save_s:.2f} s)"
    )
    return line if record.warning is None else f"{line}; WARNING: {record.warning}"


def _memory(record: StepRecord) -> str:
    text = f"memory {record.peak_memory_bytes / 2**30:.2f} GiB"
    if record.reserved_memory_bytes is None or record.used_memory_bytes is None:
        return text
    return (
        f"{text} (reserved {record.reserved_memory_bytes / 2**30:.2f}, in use {record.used_memory_bytes / 2**30:.2f})"
    )


def _mfu(record: StepRecord) -> list[str]:
    """Return the field of the utilisation; none where the device's peak is not known, as on a CPU."""
    if record.mfu_full is None or record.mfu_causal is None:
        return []
    return [f"MFU {100 * record.mfu_full:.1f}% full {100 * record.mfu_causal:.1f}% causal"]


def json_value(value: object) -> object:
    """A field of a record as JSON has it: null where a number is not finite."""
    if isinstance(value, dict):
        return {key: json_value(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [json_value(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
