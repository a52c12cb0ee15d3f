"""What the start of one rank asks of file systems, and its CPU time: from the disk where code and packages are installed, and from
a node's own. `make bench-start`; it takes strace, and 4 GB of disk."""

import argparse
import contextlib
import os
import resource
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.compare import append_result, table
from bench.start_requests import below, by_call, requests_of
from launch.chain.packed import pack_environment
from tests.runs.small import make_small_data, write_small_run

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results" / "start.md"
STEPS = ("train.train_steps=1", "optim.lr_warmup_samples=0")
ROUNDS = 3


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="fanal-start-", dir=ROOT / ".cache") as folder:
        shared = Path(folder)
        make_small_data(shared)
        config = write_small_run(shared)
        node = shared / "node"
        node.mkdir()
        pack_environment(Path(sys.executable), ROOT, node / "environment.tar")
        subprocess.run(["tar", "-xf", node / "environment.tar", "-C", node], check=True)
        local = node / "python"
        places = {
            "installed": (Path(sys.executable), {"PYTHONPATH": str(ROOT)}),
            "node-local": (
                local / "bin/python",
                {"PYTHONHOME": str(local), "PYTHONUSERBASE": str(local), "PYTHONPATH": str(node / "code")},
            ),
        }
        figures, causes = [], []
        for place, (python, variables) in places.items():
            rank = [python, "-u", "-m", "pretrain", "train", config, *STEPS]
            starter = [python, "-c", "import launch.chain.ranks"]
            for what, command in (("rank", rank), ("what starts a node's ranks", starter)):
                env = environment(variables, as_rank=what == "rank")
                cpu_s = min(cpu_time_of(command, env, shared) for _ in range(ROUNDS))
                forget_run(shared)
                found = outside(requests_of(command, env=env, cwd=shared), node, shared)
                figures.append([what, place, f"{len(found):,}", counted(by_call(found)), f"{cpu_s:.2f}"])
                causes += [[what, place, name, f"{count:,}"] for name, count in by_place(found, shared)]
    header = ["process", "code and packages", "requests to the shared disk", "by call", "CPU time, s"]
    append_result(given.results, "Starts", table(header, figures))
    append_result(
        given.results, "Starts, by place", table(["process", "code and packages", "place", "requests"], causes)
    )
    return 0


def environment(variables: Mapping[str, str], *, as_rank: bool) -> dict[str, str]:
    """The variables of a job: no Python's but these, and a rank's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    rank = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {**kept, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1", **variables, **(rank if as_rank else {})}


def cpu_time_of(command: Sequence[str | Path], env: Mapping[str, str], shared: Path) -> float:
    """User and system time of a command with all that it starts, in seconds."""
    forget_run(shared)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=dict(env), cwd=shared, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def forget_run(shared: Path) -> None:
    """Remove the run folder, so that the next start is a first one."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(shared / "runs")


def outside(requests: Sequence[tuple[str, str]], node: Path, shared: Path) -> list[tuple[str, str]]:
    """The requests to what lies on the shared disk of a cluster: Python, packages, code, data and the run; not a node's own
    folder, and not the checkpoint that the run ends with."""
    folders = {*sys.path, sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib"), str(ROOT), str(shared)} - {""}
    local = set(below(requests, node, shared / "runs/default/checkpoints"))
    return [request for request in below(requests, *folders) if request not in local]


def counted(calls: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {call}" for call, count in calls.items() if count >= 10)


def by_place(requests: Sequence[tuple[str, str]], shared: Path) -> Iterator[tuple[str, int]]:
    """Requests by what they are for: Python's library, each package, our code, data and the run's folder."""
    packages, library = sysconfig.get_path("purelib"), sysconfig.get_path("stdlib")
    places = Counter[str]()
    for _, path in requests:
        if path.startswith(f"{packages}/"):
            places[f"package {path.removeprefix(packages).split('/')[1].split('-')[0]}"] += 1
        elif below([("", path)], shared):
            places["data and run"] += 1
        elif below([("", path)], library):
            places["Python's library"] += 1
        elif below([("", path)], *(ROOT / name for name in ("fanal", "kernels", "pretrain", "tokenizer", "launch"))):
            places["our code"] += 1
        else:
            places["elsewhere"] += 1
    rest = sum(count for _, count in places.most_common()[10:])
    yield from places.most_common(10)
    if rest:
        yield "all others", rest


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
