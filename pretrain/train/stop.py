"""Requests to a run: stop with a checkpoint, write one and continue, or begin the final decay of the learning rate. All ranks act
on them after the same step.

Who may ask: SIGTERM, SIGUSR1 or SIGINT to any rank, the files STOP, SAVE and DECAY in RUN_DIR/requests, the walltime of the
config, the last step that the job was given.
"""

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from fanal.errors import UserError
from fanal.run_folder import DECAY, SAVE, STOP, UNTIL_STEP
from pretrain.config.schema import TrainConfig
from pretrain.parallel.environment import started_at
from pretrain.parallel.reduce import any_rank_each
from pretrain.parallel.signals import stop_signal
from pretrain.parallel.texts import gather_texts
from pretrain.parallel.world import World
from pretrain.train.request_files import RequestFiles, open_request_files


@dataclass(frozen=True)
class Asked:
    """The requests that all ranks agreed on. The fields are the flags of ``Requests.agreed``, in its order."""

    stop: bool
    save: bool
    give_up_save: bool
    """Whether the save under way has failed on some rank."""
    decay: bool


class Requests:
    """The requests to this rank; the loop agrees with all ranks between steps."""

    def __init__(self, train: TrainConfig, files: RequestFiles | None) -> None:
        self._walltime, self._files = Walltime(train), files
        self._decay_step: int | None = None
        """Step after which a decay began that no checkpoint is known to hold yet."""
        self._until_step, self._is_at_until = until_step(), False

    def asked_here(
        self, *, step: int | None = None, save_failed: bool = False, next_batch_grows: float = 1.0
    ) -> list[bool]:
        """Return what this rank is asked for, in the order of ``Asked``'s fields; no collective.

        Args: step: the step after which it is to happen, once for each; None where no step was; next_batch_grows: the batch of the
            step behind it, in batches of this one.
        """
        if step is not None:
            self._walltime.in_step(step, next_batch_grows)
            self._is_at_until = self._until_step is not None and step >= self._until_step
        stop = self._reason() is not None
        save, decay = (self._files is not None and self._files.asks(name) for name in (SAVE, DECAY))
        return [stop, save, save_failed, decay]

    def agreed(self, world: World, *, step: int | None = None, save_failed: bool = False) -> Asked:
        """Return what any rank was asked for after ``step`` steps, and whether a save failed on any.

        Collective: every rank asks after the same step; one device sync.
        """
        return Asked(*any_rank_each(self.asked_here(step=step, save_failed=save_failed), world))

    def who_asked_to_stop(self, world: World) -> str:
        """Return who asked, in words, on rank 0; empty on the others. Collective, after ``agreed`` said to stop."""
        reasons = gather_texts(self._reason() or "", world)
        return "" if reasons is None else in_words(reasons)

    def save_started(self) -> None:
        """Note that a checkpoint of this step is on its way: a SAVE file is fulfilled. No collective."""
        if self._files is not None:
            self._files.done(SAVE)

    def decay_began(self, step: int) -> None:
        """Note that the decay that a file asked for has begun after this step. The file stays until a checkpoint holds that: a run
        that is killed before begins its decay after the next start. No collective."""
        self._decay_step = step
        if self._files is not None:
            self._files.take(DECAY)

    def decay_refused(self) -> None:
        """Note that a request for a decay was answered, and changes nothing. No collective."""
        if self._files is not None:
            self._files.done(DECAY)

    def saved(self, step: int) -> None:
        """Note that the checkpoint of this step is complete. No collective."""
        if self._files is not None and self._decay_step is not None and step >= self._decay_step:
            self._files.release(DECAY)
            self._decay_step = None

    def _reason(self) -> str | None:
        signal = stop_signal()
        if signal is not None:
            return signal.name
        if self._files is not None and self._files.asks(STOP):
            return "STOP file"
        if self._is_at_until:
            return f"until step {self._until_step}"
        return "walltime" if self._walltime.is_spent() else None


def until_step() -> int | None:
    """Return the step after which the job asks to stop; None if it does not say. Raises: UserError if it is no step."""
    said = os.environ.get(UNTIL_STEP, "")
    if said and not (said.isascii() and said.isdigit() and int(said) > 0):
        raise UserError(f"{UNTIL_STEP} ({said!r}) must be a step, from 1 on; {UNTIL_STEP}=5000 works")
    return int(said) if said else None


class Walltime:
    """The check that the rest of a step, another one and a checkpoint after it fit into train.walltime_s.

    A GPU may have most of a step before it when the question is asked; what is left of it counts as a whole step.
    """

    def __init__(self, train: TrainConfig) -> None:
        self._ends_at = None if train.walltime_s is None else started_at() + train.walltime_s - train.walltime_margin_s
        self._first_step: int | None = None
        self._stepped_at = 0.0
        self._longest_s = 0.0
        """The longest from one step to the next, with validation and checkpoint where there were any; without the first step,
        which may compile."""
        self._spent = False

    def in_step(self, step: int, next_batch_grows: float = 1.0) -> None:
        """Take the time; called once before the first step and then in each, when its work is on its way."""
        now = time.monotonic()
        if self._first_step is None:
            self._first_step = step
        elif step > self._first_step + 1:
            self._longest_s = max(self._longest_s, now - self._stepped_at)
        self._stepped_at = now
        self._longest_s *= max(1.0, next_batch_grows)  # a larger batch takes longer, and was not seen yet
        # A job that stops before its first step would be started again without end.
        self._spent = (
            self._ends_at is not None and step > self._first_step and now + 2 * self._longest_s > self._ends_at
        )

    def is_spent(self) -> bool:
        """Return whether the walltime was spent in the last step, so that what is agreed and the reason given are the same."""
        return self._spent


def in_words(reasons: list[str]) -> str:
    """Return who asked to stop, from each rank's reason ("" for none): "SIGTERM on rank 3", "walltime", "STOP file"."""
    words = []
    for reason, count in Counter(filter(None, reasons)).items():
        if not reason.startswith("SIG"):
            words.append(reason)
        elif count == len(reasons) > 1:
            words.append(f"{reason} on all ranks")
        else:
            others = f" and {count - 1} more" if count > 1 else ""
            words.append(f"{reason} on rank {reasons.index(reason)}{others}")
    return ", ".join(words)


@contextlib.contextmanager
def open_requests(train: TrainConfig, run_dir: str, *, rank: int) -> Iterator[Requests]:
    """Take requests while the block runs. No collective. Rank 0 must hold the run folder: files in it are removed."""
    with open_request_files(run_dir, rank=rank) as files:
        yield Requests(train, files)
