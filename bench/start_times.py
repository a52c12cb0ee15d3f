"""Seconds from the command to its first line, its first step and its end: a new run of the demo, a resumed one and a finished one.
`make bench-start`; with ``--against REV`` an older tree is started in turn with this one.

Processor time counts all processes of a run. It stands beside the seconds because a machine may have other work; how much, says
the load, which Linux counts as the processes that want to run.
"""

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.compare import append_result, table
from bench.start import RESULTS, ROOT, environment, forget_run

CONFIG = ROOT / "configs" / "tiny.yaml"
SHORT = ("log.interval=1", "checkpoint.interval=1", "optim.lr_warmup_samples=0")
LONE = (
    *SHORT,
    "parallel.tensor_model_parallel_size=1",
    "parallel.pipeline_model_parallel_size=1",
    "parallel.context_parallel_size=1",
    "parallel.sequence_parallel=false",
)
STATES = {"new": "train.train_steps=2", "resumed": "train.train_steps=3", "finished": "train.train_steps=3"}
"""Each state of a run with the override that it is started with; they follow each other in one folder."""
PHASES = Path(__file__).parent / "start_phases.py"
LIMIT_S = 300.0
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A moment of a command."""

    wall_s: float
    cpu_s: float
    """Of all processes of the command so far."""


Figures = dict[str, list[Moment]]
"""The same moment of each round."""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", metavar="REV", help="also start the tree of this commit")
    given = parser.parse_args(arguments)
    assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0, "Linux has it since 3.4"
    with tempfile.TemporaryDirectory(prefix="fanal-start-", dir=ROOT / ".cache") as folder:
        scratch, places = Path(folder), trees(given.against, Path(folder))
        before = os.getloadavg()[0]
        commands: dict[tuple[str, str], Figures] = {}
        phases: dict[tuple[str, str], Figures] = {}
        for number in range(given.rounds + 1):  # one round before those counted warms caches, and writes bytecode
            print(f"round {number} of {given.rounds}", file=sys.stderr, flush=True)
            for name in list(places) if number % 2 else reversed(list(places)):
                for state, moments in one_round(places[name], scratch):
                    add(commands, (state, name), moments, counts=number > 0)
                for state, moments in one_round_of_a_rank(places[name], scratch):
                    add(phases, (state, name), moments, counts=number > 0)
        load = f"Medians and ranges of {given.rounds} rounds, in turn; load {before:.1f} before and {os.getloadavg()[0]:.1f} after."
    append_result(given.results, "Seconds of a start, the demo on 4 local ranks", f"{load}\n\n{rows_of(commands)}")
    append_result(given.results, "Seconds of a start, one rank by phase", f"{load}\n\n{columns_of(phases)}")
    return 0


def trees(revision: str | None, scratch: Path) -> dict[str, Path]:
    """Folders of code by name: this one, and that of a commit, which is unpacked."""
    if revision is None:
        return {"now": ROOT}
    folder = scratch / "tree"
    folder.mkdir()
    archive = subprocess.run(["git", "archive", revision], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
    return {revision[:12]: folder, "now": ROOT}


def one_round(tree: Path, scratch: Path) -> Iterator[tuple[str, dict[str, Moment]]]:
    """Start the demo in each of its states."""
    forget_run(scratch)
    env = environment({"PYTHONPATH": str(tree)}, as_rank=False)
    del env["OMP_NUM_THREADS"]  # local ranks share the cores by themselves
    for state, steps in STATES.items():
        words = [sys.executable, "-m", "fanal", "train", CONFIG, f"run_dir={scratch}/runs/demo", *SHORT, steps]
        yield state, moments_of(words, env)


def one_round_of_a_rank(tree: Path, scratch: Path) -> Iterator[tuple[str, dict[str, Moment]]]:
    """Start one rank as a launcher does."""
    for state in ("new", "resumed"):
        env = environment({"PYTHONPATH": str(tree)}, as_rank=True)
        words = [sys.executable, "-W", "ignore", PHASES, CONFIG, f"run_dir={scratch}/runs/lone", *LONE, STATES[state]]
        done = subprocess.run(words, cwd=ROOT, env=env, check=True, capture_output=True, text=True, timeout=LIMIT_S)
        taken = json.loads(done.stdout.splitlines()[-1])
        yield state, {phase: Moment(wall_s=wall, cpu_s=cpu) for phase, wall, cpu in taken}


def moments_of(command: Sequence[str | Path], env: Mapping[str, str]) -> dict[str, Moment]:
    """Run a command in a session of its own, and note when its lines come.

    Raises: CalledProcessError if it fails.
    """
    children = cpu_of_children()
    began = time.monotonic()
    moments: dict[str, Moment] = {}
    with subprocess.Popen(
        command, cwd=ROOT, env=dict(env), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            moment = Moment(wall_s=time.monotonic() - began, cpu_s=cpu_of_session(process.pid))
            moments.setdefault("first line", moment)
            if line.startswith("step "):
                moments.setdefault("first step", moment)
    ended = time.monotonic() - began
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    reap_orphans()
    return {**moments, "end": Moment(wall_s=ended, cpu_s=cpu_of_children() - children)}


def cpu_of_session(session: int) -> float:
    """Return the user and system seconds of all processes of a session, those that have ended included."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it ended just now
            continue
        if int(fields[3]) == session:
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def cpu_of_children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def reap_orphans() -> None:
    """Wait for what a command has left running, such as the process that its ranks were forked from."""
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def add(
    figures: dict[tuple[str, str], Figures], key: tuple[str, str], moments: Mapping[str, Moment], *, counts: bool
) -> None:
    for name, moment in moments.items():
        if counts:
            figures.setdefault(key, {}).setdefault(name, []).append(moment)


def rows_of(commands: Mapping[tuple[str, str], Figures]) -> str:
    """A row for each state and tree, a column for each moment and clock."""
    moments = ("first line", "first step", "end")
    header = ["run", "tree", *(f"{moment}, {unit}" for moment in moments for unit in ("s", "CPU s"))]
    rows = []
    for state in STATES:
        for (of, tree), figures in commands.items():
            if of == state:
                rows.append([state, tree, *(cell for moment in moments for cell in cells(figures.get(moment)))])
    return table(header, rows)


def columns_of(phases: Mapping[tuple[str, str], Figures]) -> str:
    """A row for each phase, a column for each state and tree."""
    keys = sorted(phases, key=lambda key: list(STATES).index(key[0]))
    header = ["phase", *(f"{state}, {tree}, {unit}" for state, tree in keys for unit in ("s", "CPU s"))]
    names = list(dict.fromkeys(name for key in keys for name in phases[key]))
    rows = [[name, *(cell for key in keys for cell in cells(phases[key].get(name)))] for name in names]
    totals = [together(list(phases[key].values())) for key in keys]
    return table(header, [*rows, ["together", *(cell for total in totals for cell in cells(total))]])


def together(phases: Sequence[Sequence[Moment]]) -> list[Moment]:
    """The sum of all phases in each round."""
    return [
        Moment(wall_s=sum(moment.wall_s for moment in of_round), cpu_s=sum(moment.cpu_s for moment in of_round))
        for of_round in zip(*phases, strict=True)
    ]


def cells(moments: Sequence[Moment] | None) -> tuple[str, str]:
    """Seconds and CPU seconds; none where the moment does not come."""
    if not moments:
        return "", ""
    return spread(moments, lambda moment: moment.wall_s), spread(moments, lambda moment: moment.cpu_s)


def spread(moments: Sequence[Moment], clock: Callable[[Moment], float]) -> str:
    """Median, least and most."""
    seconds = [clock(moment) for moment in moments]
    return f"{statistics.median(seconds):.2f} [{min(seconds):.2f}-{max(seconds):.2f}]"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
