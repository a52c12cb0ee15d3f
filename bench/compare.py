"""Time contenders side by side and keep the figures: interleaved rounds, median and range, machine and commit."""

import datetime
import gc
import os
import platform
import resource
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long each round of one contender took."""

    rounds_s: tuple[float, ...]

    @property
    def median_s(self) -> float:
        return statistics.median(self.rounds_s)

    @property
    def range_s(self) -> tuple[float, float]:
        """Fastest and slowest round."""
        return min(self.rounds_s), max(self.rounds_s)


def interleaved(
    contenders: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time every contender once per round, in turn, so that a machine that slows down slows all of them.

    One round before those counted warms caches. The order turns around in every other round.
    Args: clock: ``time.process_time`` on a machine with other work; it adds up what the threads of this process take.
    """
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name in list(contenders) if number % 2 else reversed(list(contenders)):
            gc.collect()
            started = clock()
            contenders[name]()
            if number:
                taken[name].append(clock() - started)
    return {name: Timing(rounds_s=tuple(times)) for name, times in taken.items()}


def shuffled(contenders: Mapping[str, Callable[[], dict[str, float]]], *, rounds: int = 5) -> dict[str, Timing]:
    """Run every contender once per round, in an order of its own in each, on a device whose speed comes and goes.

    A contender times itself, and returns seconds by name; so it can clean up behind itself. One round before those counted.
    """
    taken: dict[str, list[float]] = {}
    random = Random(1)
    for number in range(rounds + 1):
        for name in random.sample(list(contenders), len(contenders)):
            gc.collect()
            for figure, seconds in contenders[name]().items():
                if number:
                    taken.setdefault(figure, []).append(seconds)
    return {figure: Timing(rounds_s=tuple(times)) for figure, times in taken.items()}


def ratio(timing: Timing, to: Timing) -> tuple[float, float, float]:
    """Median, smallest and largest of the ratios of two contenders' times, each inside one round."""
    ratios = [own / other for own, other in zip(timing.rounds_s, to.rounds_s, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def cpu_s() -> float:
    """CPU seconds of this process and of its children that have ended."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def machine() -> str:
    """CPU model, usable cores and operating system, in one line."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or "unknown CPU"
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {platform.system()} {platform.machine()}"


def commit() -> str:
    """The commit of the working tree, marked if files differ from it."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    if shutil.which("git") is None:
        return "unknown (no git here)"
    changed = " with changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    return (git("rev-parse", "--short=12", "HEAD") or "no commit") + changed


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: first column to the left, figures to the right."""
    rule = [":--", *["--:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def append_result(path: Path, title: str, text: str) -> None:
    """Print a result, and add it to the file with date, machine and commit."""
    when = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    entry = f"## {title}\n\n{when}; {machine()}; commit {commit()}.\n\n{text}\n"
    print(entry, flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        stream.write(("\n" if stream.tell() else "") + entry)


def drop_from_page_cache(folder: Path) -> None:
    """Everything below a folder, so that the next read is the disk's."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
