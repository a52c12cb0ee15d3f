"""Commands of the tokenizer on wrong inputs, each in a process of its own that has limits: ``python -m tests.fuzz.inputs``.

Every one must end well or with lines that begin with "error: ", in time and in bounded memory, and a failure must leave no file
under a final name. Numbers of cases on the command line run these alone, and print what they say.
"""

import argparse
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.fuzz.input_cases import Case, make_case, make_good
from tokenizer.__main__ import main as tokenizer_main

ROOT = Path(__file__).parents[2]
NUM_CASES = 500
AS_COMMANDS = 25
"""Every so many cases one is run as a command that starts afresh; the others in a fork of this process."""
LIMIT_S = 60.0
PEAK_BYTES = 600 << 20
"""Of memory in use, beyond what a fork had from the start; of a command, libraries included."""
ADDRESS_BYTES = 16 << 30
"""So that what asks for more memory than there is fails, rather than the machine."""
MEANINGS = {0: "taken", 2: "refused", 76: "damaged", 70: "may pass"}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a case."""

    case: Case
    number: int
    code: int | None
    """The exit code; None if the process was killed at its limit of time."""
    said: str
    """On standard error."""
    seconds: float
    peak_bytes: int
    left: list[str]

    def fault(self) -> str | None:
        """What is wrong with it; None if nothing is."""
        lines = self.said.splitlines()
        if self.code is None:
            return f"not done in {LIMIT_S:g} s"
        if self.code not in MEANINGS:
            return f"exit code {self.code}"
        if "Traceback" in self.said:
            return "a traceback"
        if self.code and not any(line.startswith("error: ") for line in lines):
            return "no line that says error"
        if self.code and self.case.words[0] != "verify" and not lines[-1].startswith("error: "):
            return "an error of several lines"
        if self.code and self.left:
            return f"a failure left {self.left}"
        return f"a peak of {self.peak_bytes >> 20} MiB" if self.peak_bytes > PEAK_BYTES else None


def run_case(number: int, good: Path, folder: Path, *, as_command: bool = False) -> Outcome:
    """Make a case and run it; its folder is removed again."""
    case = make_case(number, good, folder)
    before = _files(case.output)
    words = [sys.executable, "-m", "tokenizer", *case.words]
    said = folder / "said"
    began, before_bytes = time.monotonic(), 0 if as_command else psutil.Process().memory_info().rss
    with said.open("wb") as stream:
        child = _command(words, stream.fileno()) if as_command else _forked(case.words, stream.fileno())
        code, peak_bytes = _watched(child, began + LIMIT_S, as_command=as_command)
    outcome = Outcome(
        case=case, number=number, code=code, said=said.read_text(errors="replace"), seconds=time.monotonic() - began,
        peak_bytes=max(0, peak_bytes - before_bytes), left=sorted(_files(case.output) - before),
    )  # fmt: skip
    shutil.rmtree(folder)
    return outcome


def _forked(words: Sequence[str], said: int) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        _limit()
        _speak_to(said)
        code = tokenizer_main(list(words))
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def _speak_to(said: int) -> None:
    silent = os.open(os.devnull, os.O_RDWR)
    for stream, target in ((0, silent), (1, silent), (2, said)):
        os.dup2(target, stream)
    # As an interpreter opens them.
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", errors="backslashreplace")


def _command(words: Sequence[str], said: int) -> int:
    # Waited for below, by its number: no other call shows the memory of one child.
    return subprocess.Popen(
        words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said, preexec_fn=_limit
    ).pid


def _limit() -> None:
    os.setsid()  # no terminal, and a group that can be killed with its workers
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _watched(child: int, deadline: float, *, as_command: bool) -> tuple[int | None, int]:
    """Wait until a child ends, or end it. Returns its exit code and its peak of memory."""
    in_time, highest = True, 0
    while True:
        highest = max(highest, _peak_so_far(child))
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            break
        if in_time and time.monotonic() > deadline:
            in_time = False
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.005)
    # Of a command the kernel reports the memory of whoever started it, where that was more.
    return os.waitstatus_to_exitcode(status) if in_time else None, highest if as_command else usage.ru_maxrss << 10


def _peak_so_far(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    return next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM:")), 0)


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def run_all(numbers: Sequence[int], say: Callable[[str], object] = print, *, at_length: bool = False) -> list[Outcome]:
    """Run cases, and say which are wrong as they come."""
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        good = Path(name) / "good"
        make_good(good)
        for number in numbers:
            outcome = run_case(number, good, Path(name) / "case", as_command=number % AS_COMMANDS == 0)
            outcomes.append(outcome)
            if at_length or outcome.fault():
                case = outcome.case
                say(f"case {number} ({case.kind}): {case.what}\n  {' '.join(case.words)}\n  exit code {outcome.code}, "
                    f"{outcome.seconds:.1f} s, {outcome.peak_bytes >> 20} MiB: {outcome.fault() or 'sound'}\n{outcome.said[-3000:]}")  # fmt: skip
    return outcomes


def table_of(outcomes: Sequence[Outcome]) -> str:
    """Return a Markdown table of the outcomes by kind."""
    rows = [
        "| kind | cases | " + " | ".join(MEANINGS.values()) + " | faults | longest, s | highest, MiB |",
        "|---|" + "---|" * 8,
    ]
    for kind in [*dict.fromkeys(outcome.case.kind for outcome in outcomes), "all"]:
        chosen = [outcome for outcome in outcomes if kind in (outcome.case.kind, "all")]
        sound = Counter(outcome.code for outcome in chosen if not outcome.fault())
        counts = [len(chosen), *(sound[code] for code in MEANINGS), len(chosen) - sound.total()]
        longest, highest = max(o.seconds for o in chosen), max(o.peak_bytes for o in chosen) >> 20
        rows.append(f"| {kind} | {' | '.join(map(str, counts))} | {longest:.1f} | {highest} |")
    return "\n".join(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Run the tokenizer's commands on wrong inputs.")
    parser.add_argument("cases", nargs="*", type=int, help="numbers of cases; default: all")
    chosen = parser.parse_args().cases
    found = run_all(chosen or range(NUM_CASES), at_length=bool(chosen))
    print(table_of(found))
    sys.exit(any(outcome.fault() for outcome in found))
