"""A real run of thousands of steps, with checkpoints and validations, whose processes must not grow: `make soak`.

From outside, every few steps, each process of the run is looked at in /proc: memory of its own, memory that it shares, descriptors,
threads. The first third is the warm-up; the last third is compared with the second.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.compare import append_result, table
from fanal.run_progress import newest_metrics
from tests.runs.small import make_small_data, write_small_run

RESULTS = Path(__file__).parent / "results" / "soak.md"
STEPS, CHECKPOINT_INTERVAL, VALIDATION_INTERVAL, SAMPLE_INTERVAL = 3_000, 100, 50, 10
MEMORY_SHARE, MEMORY_BYTES = 0.01, 4 << 20
"""Growth of a process's memory from the second third to the last, median to median, that is allowed: the larger of the two."""
LOOK_AGAIN_S = 0.05
Process = tuple[int, str]
"""Process id, and what it is: a rank, the writer process of one, or the launcher (which forks the ranks from a server)."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """One process at one moment."""

    private_bytes: int
    """Resident memory that no other process has, or has as a copy (RssAnon)."""
    shared_bytes: int
    """Resident shared memory: memfd, /dev/shm (RssShmem)."""
    descriptors: int
    threads: int


@dataclass(frozen=True, kw_only=True)
class Sample:
    """All processes of the run, after some step."""

    step: int
    processes: dict[Process, Look]


def growth(samples: Sequence[Sample]) -> list[str]:
    """Return what grew from the second third of the samples to the last, a line each; nothing for a run that is flat.

    The medians of descriptors and threads may not grow by one. A few looks meet a save, which has more of them for a moment, or a
    thread that has ended before the next of its kind; what leaks is there in every look from then on.
    """
    third = len(samples) // 3
    second, last = samples[third : 2 * third], samples[2 * third :]
    numbers = [[len(sample.processes) for sample in part] for part in (second, last)]
    found = _grown("processes", *numbers)
    for pid, name in kept(samples):
        for what in ("private_bytes", "shared_bytes"):
            low, high = (statistics.median(_series(part, (pid, name), what)) for part in (second, last))
            if high - low > max(MEMORY_BYTES, low * MEMORY_SHARE):
                found.append(f"{what} of {name}: {low / 2**20:.1f} to {high / 2**20:.1f} MiB")
        for what in ("descriptors", "threads"):
            found += _grown(f"{what} of {name}", *(_series(part, (pid, name), what) for part in (second, last)))
    return found


def _grown(what: str, before: Sequence[int], after: Sequence[int]) -> list[str]:
    low, high = statistics.median_low(before), statistics.median_low(after)
    return [f"{what}: {low} to {high}"] if high > low else []


def kept(samples: Sequence[Sample]) -> list[Process]:
    """Return the processes that are there from the second third to the end."""
    return [
        process
        for process in samples[-1].processes
        if all(process in sample.processes for sample in samples[len(samples) // 3 :])
    ]


def slope(samples: Sequence[Sample], process: Process, what: str) -> float:
    """Return by how much a figure grows in a thousand steps, by least squares over the last two thirds."""
    rest = samples[len(samples) // 3 :]
    steps, values = [sample.step for sample in rest], _series(rest, process, what)
    return 1000 * statistics.linear_regression(steps, values).slope if len(set(steps)) > 1 else 0.0


def _series(samples: Sequence[Sample], process: Process, what: str) -> list[int]:
    return [getattr(sample.processes[process], what) for sample in samples]


def look_at(root: int) -> dict[Process, Look]:
    """Look at a process and all below it; those that end meanwhile are left out."""
    found: dict[int, tuple[int, Look]] = {}
    for pid, parent in _tree(root).items():
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
            look = Look(
                private_bytes=_kib(fields["RssAnon"]), shared_bytes=_kib(fields["RssShmem"]),
                descriptors=sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()), threads=int(fields["Threads"]),
            )  # fmt: skip
        except (OSError, KeyError):  # KeyError: it is a zombie, which has no memory
            continue
        found[pid] = (parent, look)
    writers = {pid for pid in found if _is_writer(pid)}
    ranks = {found[pid][0] for pid in writers}
    names = {pid: "writer" if pid in writers else "rank" if pid in ranks else "launcher" for pid in found}
    return {(pid, names[pid]): look for pid, (_, look) in found.items()}


def _is_writer(pid: int) -> bool:
    try:
        return b"writer_process" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _kib(text: str) -> int:
    return int(text.split()[0]) * 1024


def _tree(root: int) -> dict[int, int]:
    """Return the process ids from a process on, each with that of its parent."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found, waiting = {root: 0}, [root]
    while waiting:
        parent = waiting.pop()
        found |= dict.fromkeys(children.get(parent, ()), parent)
        waiting += children.get(parent, ())
    return found


def watch(process: subprocess.Popen[bytes], run_dir: Path, *, every: int) -> list[Sample]:
    """Look at a run every few steps until it ends."""
    samples: list[Sample] = []
    while process.poll() is None:
        step = next((record["step"] for record in newest_metrics(run_dir, kinds=("step",))), 0)
        if step >= (samples[-1].step if samples else 0) + every:
            samples.append(Sample(step=step, processes=look_at(process.pid)))
        time.sleep(LOOK_AGAIN_S)
    return samples[:-1]  # its end may have begun


def report(samples: Sequence[Sample]) -> str:
    """A row for each process: its figures over the second and the last third, and what memory grows in a thousand steps."""
    third, rows = len(samples) // 3, []
    for process in kept(samples):
        cells = [f"{process[1]} {process[0]}"]
        for what in ("private_bytes", "shared_bytes"):
            parts = (samples[third : 2 * third], samples[2 * third :])
            low, high = (statistics.median(_series(part, process, what)) / 2**20 for part in parts)
            cells.append(f"{low:.1f}, {high:.1f}, {slope(samples, process, what) / 1024:+.0f} KiB")
        for what in ("descriptors", "threads"):
            parts = (_series(samples[third : 2 * third], process, what), _series(samples[2 * third :], process, what))
            cells.append(", ".join(f"{statistics.median_low(part)} ({max(part)})" for part in parts))
        rows.append(cells)
    memory = "{} memory, MiB: second third, last, slope a 1,000 steps"
    heads = [memory.format("own"), memory.format("shared"), "descriptors, median (most)", "threads, median (most)"]
    return table(["process", *heads], rows)


def left_in_shared_memory(samples: Sequence[Sample]) -> list[str]:
    """Return the files in /dev/shm that are named after a process of the run, which has ended."""
    pids = {str(pid) for sample in samples for pid, _ in sample.processes}
    return [path.name for path in Path("/dev/shm").iterdir() if pids & set(path.name.replace("-", "_").split("_"))]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="fanal-soak-") as name:
        folder = Path(name)
        make_small_data(folder)
        run_dir = folder / "run"
        keys = {
            "run_dir": run_dir, "parallel.data_parallel_size": given.ranks, "train.train_steps": given.steps, "model.num_layers": 2,
            "data.seq_length": 32, "train.global_batch_size": 2 * given.ranks, "checkpoint.interval": CHECKPOINT_INTERVAL,
            "checkpoint.keep_last": 2, "train.validation_interval": VALIDATION_INTERVAL, "log.tensorboard": "true",
        }  # fmt: skip
        words = [f"{key}={value}" for key, value in keys.items()]
        command = [sys.executable, "-W", "ignore", "-m", "pretrain", "train", str(write_small_run(folder)), *words]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            samples = watch(process, run_dir, every=SAMPLE_INTERVAL)
        finally:
            process.terminate()
            code = process.wait()
        saves = sum(1 for _ in newest_metrics(run_dir, kinds=("checkpoint",)))
        validations = sum(1 for _ in newest_metrics(run_dir, kinds=("validation",)))
        shutil.rmtree(run_dir)
    ranks = [name for _, name in kept(samples)].count("rank")
    problems = [f"{ranks} ranks were there throughout"] if ranks != given.ranks else []
    problems += growth(samples) + [f"left in /dev/shm: {name}" for name in left_in_shared_memory(samples)]
    if code or samples[-1].step < given.steps - 2 * SAMPLE_INTERVAL - 50:
        problems.append(f"the run ended with code {code}, last seen at step {samples[-1].step}")
    said = (
        f"{given.steps:,} steps on {given.ranks} ranks, {saves} checkpoints and {validations} validations, {len(samples)} looks. "
        f"{'Flat.' if not problems else 'NOT FLAT: ' + '; '.join(problems)}\n\n"
    )
    append_result(given.results, "Soak", said + report(samples))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
