"""A job of two nodes without a Slurm: what srun starts on each of them, with the variables that the job's script exports."""

import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
NODE_SCRIPT = ROOT / "launch" / "chain" / "node.sh"


@dataclass
class TwoNodes:
    """Two nodes on this machine, each with a number of ranks, in sessions of their own."""

    attempt: Path
    config: Path
    ranks_per_node: int = 1
    variables: dict[str, str] = field(default_factory=dict)
    host: str = "127.0.0.1"
    nodes: list["subprocess.Popen[str]"] = field(default_factory=list)
    port: int = 0
    """Port where ranks meet, which was free a moment ago."""

    def __post_init__(self) -> None:
        with socket.socket() as probe:
            probe.bind((self.host, 0))
            self.port = probe.getsockname()[1]

    def start(self) -> "TwoNodes":
        """Start both."""
        codes = self.attempt / "exit-codes"
        codes.mkdir(parents=True)
        common = {
            "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1",
            "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "FANAL_RANKS_PER_NODE": str(self.ranks_per_node), "FANAL_NUMA_BINDING": "",
            "FANAL_ATTEMPT": str(self.attempt), "FANAL_CONFIG": str(self.config), "FANAL_MEET_AT": f"{self.host}:{self.port}",
            "PRETRAIN_MEETING_ID": "an id", "PRETRAIN_EXIT_CODES": str(codes),
        }  # fmt: skip
        for node in range(2):
            own = {"SLURM_NODEID": str(node), "SLURM_PROCID": str(node), "SLURMD_NODENAME": f"n{node}"}
            self.nodes.append(
                subprocess.Popen(
                    ["bash", str(NODE_SCRIPT)], env={**os.environ, **common, **own, **self.variables}, cwd=self.attempt,
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
                )
            )  # fmt: skip
        return self

    def wait(self, timeout_s: float = 240) -> list[str]:
        """Wait for both, and return what each has printed."""
        return [node.communicate(timeout=timeout_s)[0] for node in self.nodes]

    def is_running(self) -> bool:
        """Whether a node runs."""
        return any(node.poll() is None for node in self.nodes)

    def processes(self) -> list[psutil.Process]:
        """All that the nodes have started and that runs now."""
        found = []
        for node in self.nodes:
            try:
                found += psutil.Process(node.pid).children(recursive=True)
            except psutil.NoSuchProcess:
                continue
        return found

    def ranks(self) -> dict[int, psutil.Process]:
        """The ranks that run now."""
        found = {}
        for process in self.processes():
            try:
                words, environment = process.cmdline(), process.environ()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            if "RANK" in environment and "pretrain" in words and "torch.distributed.run" not in words:
                found[int(environment["RANK"])] = process
        return found

    def codes(self) -> dict[str, str]:
        """The exit codes that ranks have left."""
        return {path.name: path.read_text().strip() for path in sorted((self.attempt / "exit-codes").iterdir())}

    def __enter__(self) -> "TwoNodes":
        return self.start()

    def __exit__(self, *_: object) -> None:
        for process in self.processes():
            process.kill()
        for node in self.nodes:
            if node.poll() is None:
                os.killpg(node.pid, signal.SIGKILL)
            node.wait()
            if node.stdout is not None:
                node.stdout.close()
