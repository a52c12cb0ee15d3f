"""Exit codes of the ranks of a job, each of which leaves its own in a file."""

from pathlib import Path

from fanal import exit_codes
from fanal.ownership import why_not_own
from launch.chain.script import EXIT_CODES


def rank_exit_codes(attempt: Path) -> dict[int, int]:
    """Return the exit code that each rank left; ranks that were killed left none. What another user may have written is none."""
    codes, folder = {}, attempt / EXIT_CODES
    if not folder.exists() or why_not_own(attempt) or why_not_own(folder):
        return codes
    for path in folder.glob("rank-*"):
        if why_not_own(path):
            continue
        text = path.read_text(encoding="utf-8").strip()
        if text.isdigit():
            codes[int(path.name.removeprefix("rank-"))] = int(text)
    return codes


def known_code(code: int) -> int:
    """Return the exit code, or CRASH for a code that is not ours, such as 1 of a Python that cannot import."""
    ours = (exit_codes.WRONG_INPUT, exit_codes.DAMAGED, exit_codes.HANG, exit_codes.STOPPED)
    return code if code in ours else exit_codes.CRASH
