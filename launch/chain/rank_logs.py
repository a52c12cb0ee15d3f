"""Last output of a rank before it ended: the output of each is kept in logs/NODE/LOCAL_RANK/std{out,err}.log."""

import re
from pathlib import Path

from fanal import exit_codes
from fanal.run_folder import LOGS_DIR

ASKED = re.compile(r"^stopped on request \((.*?)\); ")
"""Pattern of the last line of rank 0 in a run that was stopped (pretrain/train/loop.py, pretrain/log/sinks.py)."""
TAIL_BYTES = 65_536
BEGINS = {exit_codes.WRONG_INPUT: "error: ", exit_codes.DAMAGED: "error: ", exit_codes.HANG: "watchdog: "}
"""Start of the line that gives the reason for an exit code."""


def reason_of(attempt: Path, code: int) -> str:
    """Return the line by which a rank explained this exit code, without its start; empty if none was found."""
    begins = BEGINS.get(code)
    if begins is None:
        return ""
    for log in sorted((attempt / LOGS_DIR).glob("**/stderr.log")):
        for line in reversed(_tail(log)):
            if line.startswith(begins):
                return line.removeprefix("error: ").strip()
    return ""


def asked_by(attempt: Path) -> str:
    """Return who asked the run to stop, in its own words; empty if nobody did. The console says so even where no step
    was done."""
    for log in sorted((attempt / LOGS_DIR).glob("**/stdout.log")):
        for line in reversed(_tail(log)):
            if found := ASKED.search(line):
                return found[1]
    return ""


def _tail(log: Path) -> list[str]:
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - TAIL_BYTES))
            return stream.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return []
