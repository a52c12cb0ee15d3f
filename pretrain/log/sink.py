"""What a sink of records is, and what each one is told when a start opens it."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pretrain.config.schema import RunConfig
from pretrain.log.scalars import Record
from pretrain.log.stamp import Stamp


class Sink(Protocol):
    """Takes records as they come. Each method may raise OSError."""

    lost: str
    """Message for when it cannot be written."""

    def write(self, record: Record) -> None: ...

    def say(self, message: str) -> None: ...

    def step_done(self, step: int) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Opening:
    """A start of a run, as a sink sees it."""

    run: RunConfig
    stamp: Stamp

    @property
    def run_dir(self) -> Path:
        return Path(self.run.run_dir)


class Opener(Protocol):
    """Opens a sink for one start. A place that cannot be written, as on a full disk, is named, and there is no sink then."""

    def __call__(self, opening: Opening) -> AbstractContextManager[Sink | None]: ...
