"""Wrong configs, one after the other: each is refused in one line, or is a config. ``python -m tests.fuzz.configs --help``.

A case is read as every command reads it, in this process, with a limit of time and of memory; some are given to real commands as
well. What breaks a promise is printed with its number, by which it is made again.
"""

import argparse
import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from fanal.errors import UserError
from fanal.shown import on_one_line
from launch.sites.site import load_site
from pretrain.config.load import load_run, to_yaml
from pretrain.inspect.show import consequences
from pretrain.train.least_memory import least_bytes
from tests.fuzz.config_cases import BASE, KINDS, Case, text_of, wrong_config

CPU_LIMIT_S, LIMIT_S = 5, 60
"""Of a case in this process: of a core, and by the clock, for what waits."""
COMMAND_LIMIT_S = 120
LARGEST_GROWTH = 300 << 20
"""Bytes by which this process may grow in all cases together."""
COMMAND_BYTES = 2 << 30
"""Bytes of a command."""
LONGEST_MESSAGE = 1500
REFUSED, TAKEN, COMMAND_REFUSED, COMMAND_TAKEN = "refused", "a config", "command: exit code 2", "command: exit code 0"
RENDER = (("launch", "render"), ("--site", "{site}", "--nodes", "1", "--hours", "1"))
COMMANDS = ((("show",), ()), (("show",), ()), (("train",), ()), (("prove",), ("--steps", "4")), RENDER)
"""Commands in turn. The data of the cases are not there, so that nothing trains."""
ROOT = Path(__file__).parents[2]


class TooLongError(BaseException):
    """Error: a case that has no end. No Exception: omegaconf takes any that comes while it resolves for one of its own."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a case."""

    outcome: str
    problem: str | None = None
    """The promise that was broken; None if none was."""


def try_here(case: Case, folder: Path) -> Result:
    """Read a case in this process, and work out what follows from it."""
    before = names_in(folder)
    path = case.write(folder)
    written = names_in(folder)
    try:
        with time_limit():
            outcome, message = _read(case, path)
    except TooLongError:
        return Result(outcome="hang", problem=f"no end after {CPU_LIMIT_S} s of a core, or {LIMIT_S} s")
    except Exception as error:  # what this is looking for: an error of any other type is a traceback of the command
        where = traceback.extract_tb(error.__traceback__)[-1]
        return Result(
            outcome="traceback",
            problem=f"{type(error).__name__}: {on_one_line(str(error))[:300]} ({where.filename}:{where.lineno})",
        )
    left = names_in(folder) - written
    if left:
        return Result(outcome=outcome, problem=f"it left {sorted(left)} (there before: {sorted(before)})")
    if len(message) > LONGEST_MESSAGE:
        return Result(outcome=outcome, problem=f"a message of {len(message):,} characters: {message[:200]}")
    return Result(outcome=outcome)


def _read(case: Case, path: Path) -> tuple[str, str]:
    try:
        if case.site:
            load_site(str(path))
            return TAKEN, ""
        run = load_run(path, case.overrides)
        consequences(run)
        least_bytes(run, num_ranks=1)
        text = to_yaml(run)
        again = path.parent / "resolved.yaml"
        again.write_text(text, encoding="utf-8")
        assert load_run(again) == run, f"the resolved config is another one: {text}"
        again.unlink()
        return TAKEN, ""
    except UserError as error:
        return REFUSED, on_one_line(str(error))


def try_command(case: Case, folder: Path) -> Result:
    """Give a case to a real command."""
    (folder / "base").mkdir()
    path = case.write(folder)
    command, options = COMMANDS[case.number // 7 % len(COMMANDS)]
    config, site = path, "local"
    if case.site:
        config, site = Case(number=0, kind="", content=text_of(BASE)).write(folder / "base"), str(path)
        command, options = RENDER
    words = [*command, str(config), *case.overrides, *(option.format(site=site) for option in options)]
    written = names_in(folder)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "fanal", *words], cwd=folder, capture_output=True, errors="backslashreplace", timeout=COMMAND_LIMIT_S,
            text=True, stdin=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Result(outcome="hang", problem=f"{words[:2]}: no end after {COMMAND_LIMIT_S} s")
    said = on_one_line(done.stderr)[-600:]
    if done.returncode not in (0, 2) or "Traceback" in done.stderr:
        return Result(outcome="traceback", problem=f"{words[:2]}: exit code {done.returncode}: {said}")
    left = names_in(folder) - written
    if left and done.returncode != 0:
        return Result(outcome="left something", problem=f"{words[:2]} left {sorted(left)}: {said}")
    if done.returncode == 2 and len(done.stderr) > 2 * LONGEST_MESSAGE:
        return Result(outcome="a long message", problem=f"{words[:2]}: {said}")
    return Result(outcome=COMMAND_REFUSED if done.returncode else COMMAND_TAKEN)


def names_in(folder: Path) -> set[str]:
    """Everything below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """Raise TooLongError in a block that takes too long, whether it computes or waits."""

    def end(number: int, frame: FrameType | None) -> None:
        raise TooLongError

    handlers = {number: signal.signal(number, end) for number in (signal.SIGVTALRM, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_LIMIT_S)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def run_cases(
    seed: int, numbers: Sequence[int], *, every_command: int | None
) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Try cases, and some of them as commands.

    Args: every_command: each case whose place is a multiple of this is also given to a command; None for none.
    Returns: (counts by kind and outcome, the problems).
    """
    counts: Counter[tuple[str, str]] = Counter()
    problems = []
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for place, number in enumerate(numbers):
        case = wrong_config(seed, number)
        tries = [try_here]
        if every_command is not None and place % every_command == 0 and not _is_no_argument(case):
            tries.append(try_command)
        for attempt in tries:
            with tempfile.TemporaryDirectory(prefix="fanal-fuzz-") as folder, contextlib.chdir(folder):
                result = attempt(case, Path(folder))
            counts[case.kind, result.outcome] += 1
            if result.problem is not None:
                problems.append(f"seed {seed}, case {number} ({case.kind}): {result.problem}")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - largest
    if grown > LARGEST_GROWTH:
        problems.append(
            f"seed {seed}: the cases made this process grow by {grown:,} bytes; {LARGEST_GROWTH:,} are allowed"
        )
    if (
        every_command is not None
        and (most := resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024) > COMMAND_BYTES
    ):
        problems.append(f"seed {seed}: a command took {most:,} bytes; {COMMAND_BYTES:,} are allowed")
    return counts, problems


def _is_no_argument(case: Case) -> bool:
    """Whether the system itself would not start a command with these words."""
    return any("\0" in word or len(word) > 100_000 for word in case.overrides)


def table(counts: Counter[tuple[str, str]]) -> str:
    """The counts as a table of Markdown."""
    outcomes = [
        outcome
        for outcome in (REFUSED, TAKEN, COMMAND_REFUSED, COMMAND_TAKEN)
        if any(key[1] == outcome for key in counts)
    ]
    outcomes += sorted({outcome for _, outcome in counts} - set(outcomes))
    rows = [["what is wrong", *outcomes], ["---"] * (len(outcomes) + 1)]
    rows += [[kind, *(str(counts[kind, outcome] or "") for outcome in outcomes)] for kind in KINDS]
    rows.append(
        ["all", *(str(sum(count for (_, name), count in counts.items() if name == outcome)) for outcome in outcomes)]
    )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> int:
    """Run the cases that the command line asks for. Returns: 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="number of one case, which is printed too")
    parser.add_argument("--every-command", type=int, default=33, help="each case of so many is also given to a command")
    asked = parser.parse_args()
    numbers = range(asked.cases) if asked.only is None else [asked.only]
    if asked.only is not None:
        print(wrong_config(asked.seed, asked.only))
    started = time.monotonic()
    counts, problems = run_cases(asked.seed, numbers, every_command=asked.every_command)
    print(f"{len(numbers):,} wrong configs of seed {asked.seed} in {time.monotonic() - started:.0f} s")
    print(table(counts))
    print("\n".join(problems) or "every one was refused in one line, or is a config")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
