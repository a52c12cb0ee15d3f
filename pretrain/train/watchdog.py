"""A watchdog in every rank: an act that takes longer than its limit is cut off, and each rank shows where it stood.

A hang in one rank blocks its peers in the next collective, so all pass the limit at about the same time. Over gloo the stacks of
all tell which one is the cause. With NCCL a collective does not block the host, so each also writes what its collectives came to.
The main thread may sit in a C call: the watchdog is a thread, and ends the process.

It also ends a rank that was asked to stop while the run starts, wherever that hangs: there is nothing to save yet.
"""

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from fanal.exit_codes import HANG, STOPPED
from fanal.new_files import open_to_append
from fanal.run_folder import COLLECTIVES_FILE, LOGS_DIR
from fanal.shown import on_one_line
from pretrain.config.schema import WatchdogConfig
from pretrain.parallel.environment import note_exit_code, rank_and_size, started_by_launcher
from pretrain.parallel.local import report_to_starter
from pretrain.parallel.signals import keeps_exit_code, stop_signal, stop_signal_is_older_than
from pretrain.train.flight_record import write_flight_record

LOOK_EVERY_S = 0.5
GRACE_S = 5.0
"""Seconds from the stacks to the exit. The first rank that exits ends the others, which need as long to write theirs."""
NO_GIL_S = 30.0
"""Past the limit by this much, the process is ended from C with code 1: something holds the interpreter's lock."""
STOP_GRACE_S = 3.0
"""Seconds from a stop signal while the run starts to the end of the process, unless all ranks agree on the stop before."""
PEERS_S = 1.0
"""Seconds that the other ranks have to hear of it before they lose this one."""
STDOUT, STDERR = 1, 2


class Watchdog:
    """The watch over one rank: what it is at, and since when."""

    def __init__(self, limits: WatchdogConfig, *, rank: int, stacks: Path) -> None:
        """Args: stacks: the file that gets this rank's stacks."""
        self._limits, self._rank, self._stacks = limits, rank, stacks
        self._at = "init", time.monotonic()
        """The act that the main thread is at, and when it began."""
        self._steps = 0
        self._closed, self._is_ending = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def enter(self, act: str) -> None:
        """Note that the main thread is at ``act`` from now on: init, step, validation or save. Cheap."""
        self._steps += act == "step"
        self._at = act, time.monotonic()
        limit = self._limit_s(act)
        if limit is None:
            faulthandler.cancel_dump_traceback_later()
        else:
            faulthandler.dump_traceback_later(limit + GRACE_S + NO_GIL_S, exit=True, file=STDERR)

    @contextlib.contextmanager
    def during(self, act: str) -> Iterator[None]:
        """Note that the main thread is at ``act`` while the block runs; the clock of the act before starts again after it."""
        before, _ = self._at
        self.enter(act)
        yield
        self.enter(before)

    @property
    def is_starting(self) -> bool:
        """Whether this process has not begun a step yet, nor the end of the run: nothing of it could be saved."""
        return self._at[0] == "init" and not self._steps and not keeps_exit_code()

    def end_stopped(self) -> None:
        """End the process as one that was stopped while the run started. Any thread; does not return."""
        self._is_ending.acquire()  # for good: whoever comes second waits for the end
        report_to_starter("", STOPPED)
        _, _, local_rank = rank_and_size()
        asked = stop_signal()
        text = f"stopped on request ({asked.name if asked else 'a peer'} on rank {self._rank}); nothing to save, no step was done\n"
        if local_rank == 0:
            threading.Thread(target=os.write, args=(STDOUT, text.encode()), daemon=True).start()
        time.sleep(PEERS_S)
        if started_by_launcher():
            note_exit_code(STOPPED)
        os._exit(STOPPED)

    def start(self) -> None:
        """Watch from now on."""
        self.enter("init")
        self._thread.start()

    def close(self) -> None:
        """End the watch. Does not return if an act is being cut off: its end must be the same on all ranks."""
        self._closed.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def _limit_s(self, act: str) -> float | None:
        limit = getattr(self._limits, f"{act}_s")
        if act == "step" and self._steps <= 1 and limit:
            limit += self._limits.init_s or 0  # compilation, and the first message on every connection
        return limit or None

    def _watch(self) -> None:
        while not self._closed.wait(LOOK_EVERY_S):
            if self.is_starting and stop_signal_is_older_than(STOP_GRACE_S):
                self.end_stopped()
            act, since = self._at
            limit, elapsed = self._limit_s(act), time.monotonic() - since
            if limit is not None and elapsed > limit:
                self._cut_off(act, limit, elapsed)

    def _cut_off(self, act: str, limit_s: float, elapsed_s: float) -> None:
        text = (
            f"watchdog: rank {self._rank} has been at {act} for {elapsed_s:.0f} s, longer than train.watchdog.{act}_s "
            f"allows ({limit_s:g} s), and exits with code {HANG}; the stacks of all ranks: {self._stacks.parent}/stacks-rank-*.txt"
        )
        # Each in a thread of its own: a file system or a pipe may be the very thing that hangs.
        for show in (self._show, self._store, lambda _: sys.stdout.flush(), lambda _: note_exit_code(HANG)):
            threading.Thread(target=show, args=(text,), daemon=True).start()
        time.sleep(GRACE_S / 2)
        # After the stacks, and with the exit code left: it may wait for the driver with the interpreter's lock held.
        threading.Thread(target=self._store_collectives, daemon=True).start()
        time.sleep(GRACE_S / 2)
        report_to_starter(text, HANG)
        note_exit_code(HANG)
        os._exit(HANG)

    def _show(self, text: str) -> None:
        os.write(STDERR, f"{on_one_line(text)}\n".encode())
        faulthandler.dump_traceback(file=STDERR, all_threads=True)

    def _store(self, text: str) -> None:
        self._stacks.parent.mkdir(parents=True, exist_ok=True)
        with open_to_append(self._stacks) as stream:
            stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {on_one_line(text)}\n".encode())
            faulthandler.dump_traceback(file=stream, all_threads=True)

    def _store_collectives(self) -> None:
        write_flight_record(self._stacks.with_name(COLLECTIVES_FILE.format(self._rank)))


@contextlib.contextmanager
def open_watchdog(limits: WatchdogConfig, run_dir: str, *, rank: int) -> Iterator[Watchdog]:
    """Watch this rank while the block runs, from "init" on. No collective."""
    watchdog = Watchdog(limits, rank=rank, stacks=Path(run_dir) / LOGS_DIR / f"stacks-rank-{rank:05d}.txt")
    watchdog.start()
    try:
        yield watchdog
    finally:
        watchdog.close()
