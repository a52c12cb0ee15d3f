"""A report is written, once or again and again while the run trains."""

import datetime
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fanal.errors import user_path
from fanal.files import write_whole, writing
from fanal.run_folder import REPORT_FILE
from pretrain.history.moved import Moved
from pretrain.report.page import page_of
from pretrain.report.view import view_of


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A report that somebody asked for."""

    run_dir: Path
    to: Path | None = None
    """File to write; by default REPORT_FILE in the run folder."""
    beside: Path | None = None
    export: Path | None = None
    moved: tuple[Moved, ...] = ()
    """Where the data of the run lie now, and those of the run beside it that have such paths."""
    co2_g_per_kwh: float | None = None
    """The user's factor for CO2."""

    @property
    def path(self) -> Path:
        """The file to write."""
        return self.to if self.to is not None else self.run_dir / REPORT_FILE


def write_report(wanted: Wanted, *, refresh_s: float | None = None) -> int:
    """Write a report, complete or not at all, and return its size in bytes.

    Raises: UserError for a folder that is no run's, or a place that cannot be written; DamagedExportError for a damaged export.
    """
    view = view_of(wanted.run_dir, moved=wanted.moved, co2_g_per_kwh=wanted.co2_g_per_kwh)
    beside = view_of(wanted.beside, moved=wanted.moved, may_be_unused=True) if wanted.beside is not None else None
    now = datetime.datetime.now(datetime.UTC)
    text = page_of(view, beside=beside, export=wanted.export, refresh_s=refresh_s, now=now)
    with writing(wanted.path, note="--to report.html writes it into the current folder"), user_path(wanted.path):
        write_whole(wanted.path, text)
    return len(text.encode())


def watch_report(
    wanted: Wanted, *, interval_s: float, said: Callable[[str], None], sleep: Callable[[float], None] = time.sleep
) -> None:
    """Write it again and again, so long after each time, until Ctrl-C; the last one does not read itself again."""
    try:
        while True:
            num_bytes = write_report(wanted, refresh_s=max(1.0, interval_s))
            said(f"{wanted.path}: {num_bytes:,} bytes; again in {interval_s:g} s, until Ctrl-C")
            sleep(interval_s)
    except KeyboardInterrupt:
        write_report(wanted)
        said(f"{wanted.path}: complete")
