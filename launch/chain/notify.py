"""Decisions that are not yet told are sent, oldest first: by the job that decided, or later by ``fanal launch notify``.

``jobs.jsonl`` is the spool. ``notified.json`` beside it has how many of its decisions have been told, ``decisions``, and which was
the newest of them, ``newest``, so that a spool that began anew is noticed; older versions wrote no ``newest``. Who sends holds a
lock. A message that was taken just before a kill is sent again.
"""

import atexit
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fanal.errors import FanalError, PassingError, UserError
from fanal.exit_codes import FINISHED
from fanal.files import write_whole
from fanal.locks import take_lock
from fanal.new_files import open_to_lock
from fanal.plain_files import read_plain
from fanal.run_folder import LAUNCH_DIR
from launch.chain import jobs_file
from launch.chain.decision_message import message
from launch.chain.webhook import URL, URL_FILE, host_of, post, reaches_out, webhook_url

NOTIFIED, LOCK = "notified.json", "notify.lock"
NEWEST = "newest"
NAMED_BY = ("time_utc", "job", "restart", "inside", "action")
"""Fields of a decision that tell it from all others."""
MOST_AT_ONCE = 20
"""Messages of one call; of a longer backlog the newest are sent, and the rest is counted in a line."""
IN_A_JOB_S = 15.0
"""Seconds that the end of a job's Python waits for its messages, at most. What was decided is done meanwhile."""


def notify(run_dir: Path, url: str) -> tuple[int, str]:
    """Send what is not yet told. Returns: how many messages were taken, and why the next one was not, empty if there is none."""
    folder = run_dir / LAUNCH_DIR
    with _held(folder) as is_held:
        if not is_held:
            return 0, "another process is sending"
        sent = 0
        while waiting := _waiting(
            run_dir, folder
        ):  # once more: others may have decided meanwhile, and found the lock held
            for number, record in waiting:
                if why := post(url, message(record, run_dir)):
                    return sent, why
                sent += 1
                told = {"decisions": number, NEWEST: {name: record.get(name) for name in NAMED_BY}}
                write_whole(folder / NOTIFIED, json.dumps(told) + "\n")
        return sent, ""


def _waiting(run_dir: Path, folder: Path) -> list[tuple[int, dict[str, Any]]]:
    """Return the decisions to be told, each with the number of decisions up to it. Of a run that has told none, those since its
    last submission; says how many older ones are left out."""
    records = jobs_file.read_run(run_dir)
    decided = [record for record in records if record["event"] == "decided"]
    known, newest = _told(folder)
    told = _number_told(decided, known, newest)
    of_this_chain = sum(record["event"] == "decided" for record in jobs_file.since_submission(records))
    most = MOST_AT_ONCE if known else min(MOST_AT_ONCE, of_this_chain)
    first = max(told, len(decided) - most)
    if len(decided) > first > told:
        # Standard output is for what a step of a job tells its script.
        print(
            f"{first - told} older decisions are not sent; {folder / jobs_file.JOBS_FILE} has them",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    return list(enumerate(decided, start=1))[first:]


def notify_now(run_dir: Path) -> int:
    """Send what is not yet told, and say how many messages that were; return the exit code.

    Raises: UserError without an address or a launch folder; PassingError if a message is not taken.
    """
    url = webhook_url(os.environ)
    if url is None:
        raise UserError(
            f"{URL} or {URL_FILE} must name a webhook, and neither is set; {URL_FILE}=~/.config/fanal/webhook works where that "
            "file holds its address and only you may read it (chmod 600)"
        )
    if not (run_dir / LAUNCH_DIR).is_dir():
        raise UserError(
            f"--from ({run_dir}) must be the run folder of a chain, with {LAUNCH_DIR} in it; `fanal launch submit` makes it"
        )
    sent, why = notify(run_dir, url)
    print(f"told {host_of(url)} {sent} decision(s)", flush=True)
    if why:
        raise PassingError(f"the next one was not told: {why}; the same command sends what is left")
    return FINISHED


def announce(run_dir: Path, *, internet: str) -> None:
    """Send what a job has just decided, beside what it does then. Delays it by nothing, its end by IN_A_JOB_S at most, and raises
    nothing: what cannot be sent is said, and sent by ``fanal launch notify``.

    Args: internet: which nodes of the site reach it.
    """
    try:
        url = webhook_url(os.environ)
        if url is None:
            return
        if not reaches_out(url, internet=internet):
            _warn(run_dir, "compute nodes of this site have no internet, and no proxy is set")
            return
        thread = threading.Thread(target=_announce, args=(run_dir, url), name="notify", daemon=True)
        thread.start()
        until = time.monotonic() + IN_A_JOB_S
        atexit.register(_wait_for, thread, run_dir, until)
    except Exception as error:  # the chain continues whatever is wrong with a message about it
        _warn(run_dir, str(error))


def _announce(run_dir: Path, url: str) -> None:
    try:
        _, why = notify(run_dir, url)
    except (FanalError, OSError, ValueError) as error:
        why = str(error)
    if why:
        _warn(run_dir, f"not told: {why}")


def _wait_for(thread: threading.Thread, run_dir: Path, until: float) -> None:
    """Wait for messages at the end of a job's Python, and say if not all could be sent."""
    thread.join(max(0.0, until - time.monotonic()))
    if thread.is_alive():
        _warn(run_dir, f"not everything was sent in {IN_A_JOB_S:g} s")


def _warn(run_dir: Path, why: str) -> None:
    with contextlib.suppress(OSError):
        print(
            f"webhook: {why}; `fanal launch notify --from {run_dir}` where there is internet sends what waits",
            file=sys.stderr,
            flush=True,
        )


def _told(folder: Path) -> tuple[int | None, dict[str, Any] | None]:
    """Return how many decisions have been told, None where that is not known, as before the first; and what names the newest of
    them, None where an older version wrote that."""
    with contextlib.suppress(OSError, ValueError, TypeError, LookupError, RecursionError):
        content = json.loads(read_plain(folder / NOTIFIED, max_bytes=4096))
        told, newest = content["decisions"], content.get(NEWEST)
        if type(told) is int and told > 0:
            return told, newest if isinstance(newest, dict) and isinstance(newest.get("time_utc"), str) else None
    return None, None


def _number_told(decided: list[dict[str, Any]], known: int | None, newest: dict[str, Any] | None) -> int:
    """Return how many of the decisions have been told, also where the file began anew since, or lost lines."""
    if known is None:
        return 0
    if newest is None:
        return known if known <= len(decided) else 0
    named = [{name: record.get(name) for name in NAMED_BY} for record in decided]
    if known <= len(decided) and named[known - 1] == newest:
        return known
    if newest in named:
        return len(named) - named[::-1].index(newest)
    # One of the same second may be told twice; none is lost.
    return next((number for number, each in enumerate(named) if each["time_utc"] >= newest["time_utc"]), len(named))


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Hold the lock of who sends, for which a few seconds are waited; yield whether it is held."""
    until = time.monotonic() + 5
    with open_to_lock(folder / LOCK) as stream:
        while not (is_held := take_lock(stream.fileno())) and time.monotonic() < until:
            time.sleep(0.1)
        yield is_held
