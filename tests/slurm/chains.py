"""Chains of jobs on the cluster: submit a run, wait for moments in it, and compare what it trained with an unbroken run."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from fanal.run_folder import JOBS_FILE, LAUNCH_DIR
from launch.chain import jobs_file
from tests.slurm.cluster import Cluster

TWO_NODES = ("parallel.tensor_model_parallel_size=2", "parallel.data_parallel_size=2")
"""TP2 x DP2: two ranks a node."""
PATIENT = "parallel.timeout_s=300"
"""For ranks whose start others delay: chains run side by side, each with four processes that import for seconds."""
STEPS, INTERVAL = 40, 8
ENOUGH_S = 600
"""For anything that is waited for; a start of four ranks takes 10 to 20 s on two cores, and other clusters start theirs meanwhile."""
OVER = "over"
"""A file beside the folder of the unbroken run, which several workers compare with: it has come to its end."""


@dataclass(frozen=True)
class Chain:
    """A run on the cluster."""

    cluster: Cluster
    config: Path
    run_dir: Path
    overrides: tuple[str, ...] = ()

    def submit(self, *options: str) -> list[int]:
        """Queue it on two nodes; the numbers of its jobs."""
        done = self.launch("submit", "--nodes", "2", *(options or ("--hours", "0.5")))
        assert done.returncode == 0, done.stderr
        return [int(job) for job in self.records("submitted")[-1]["jobs"]]  # the first may have started already

    def launch(self, command: str, *options: str) -> "subprocess.CompletedProcess[str]":
        """``fanal launch render`` or ``submit`` with this run."""
        keys = (
            f"run_dir={self.run_dir}", f"train.train_steps={STEPS}", f"checkpoint.interval={INTERVAL}", PATIENT,
            *TWO_NODES, *self.overrides,
        )  # fmt: skip
        arguments = ["--site", "local", *options]
        if not {"--preflight", "--no-preflight"} & set(options):
            arguments.append("--no-preflight")
        return subprocess.run(
            [sys.executable, "-m", "launch", command, str(self.config), *keys, *arguments],
            env=self.cluster.env, capture_output=True, text=True, timeout=300,  # it may pack all packages, a gigabyte
        )  # fmt: skip

    def until_step(self, step: int) -> None:
        """Wait until this step is logged."""
        self.until(lambda: any(s >= step for s in self.losses()), f"step {step}")

    def until_over(self) -> None:
        """Wait until no job of the cluster is left."""
        self.until(lambda: not self.cluster.queue(), "the end of the chain")

    def until(self, come: Callable[[], object], what: str) -> None:
        """Wait for something; shows how the chain stands if it does not come."""
        end = time.monotonic() + ENOUGH_S
        while not come():
            assert time.monotonic() < end, f"waited {ENOUGH_S} s for {what}\n{self.cluster.queue()}\n{self.story()}"
            time.sleep(0.1)

    def decisions(self) -> list[tuple[str, str]]:
        """(action, reason) of every job that ended, oldest first."""
        return [(r["action"], r["reason"]) for r in self.records("decided")]

    def records(self, event: str) -> list[dict[str, Any]]:
        """Lines of jobs.jsonl."""
        return [record for record in jobs_file.read_run(self.run_dir) if record["event"] == event]

    def losses(self) -> dict[int, tuple[Any, ...]]:
        """Step -> loss and gradient norm, as logged last: every figure to the last bit."""
        return {r["step"]: (r["loss"], r["grad_norm"]) for r in self._metrics() if r["kind"] == "step"}

    def validation(self) -> dict[int, dict[str, float]]:
        """Step -> validation losses."""
        return {r["step"]: r["validation_loss"] for r in self._metrics() if r["kind"] == "validation"}

    def ranks(self) -> dict[int, psutil.Process]:
        """The ranks that run now."""
        found = {}
        for process in psutil.process_iter():
            try:
                environment = process.environ()
                words = process.cmdline()
                is_rank = "RANK" in environment and "pretrain" in words and "torch.distributed.run" not in words
                if is_rank and environment.get("FANAL_ATTEMPT", "").startswith(str(self.run_dir)):
                    found[int(environment["RANK"])] = process
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def kill_a_rank(self) -> bool:
        """Kill rank 0, if it runs now."""
        if rank := self.ranks().get(0):
            rank.kill()
        return rank is not None

    def story(self) -> str:
        """All that was noted and printed, and the ends of the cluster's own logs."""
        noted = self.run_dir / LAUNCH_DIR / JOBS_FILE
        parts = [noted.read_text()] if noted.exists() else []
        parts += [f"--- {path.name}\n{path.read_text()[-4000:]}" for path in sorted(self.run_dir.glob("launch/*.out"))]
        parts += [f"--- {daemon}\n{self.cluster.log(daemon, 60)}" for daemon in ("slurmctld", *self.cluster.names)]
        return "\n".join(parts)

    def _metrics(self) -> list[dict[str, Any]]:
        path = self.run_dir / "metrics.jsonl"
        records = []
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                continue  # a line that is being written, or that a kill has torn
        return records


def unbroken(chain: Chain) -> Chain:
    """This chain of one job, run to its end by the first worker that asks for it; for the others ``until_unbroken`` waits."""
    try:
        chain.run_dir.parent.mkdir()
    except FileExistsError:
        return chain
    chain.submit()
    chain.until_over()
    (chain.run_dir.parent / OVER).touch()
    return chain


def until_unbroken(straight: Chain) -> None:
    """Wait until the unbroken run has come to its end."""
    straight.until((straight.run_dir.parent / OVER).exists, "the end of the unbroken run")


def same(chain: Chain, straight: Chain) -> bool:
    """Whether both trained the same, bit for bit."""
    until_unbroken(straight)
    assert sorted(straight.losses()) == list(range(1, STEPS + 1)), "the unbroken run has all steps"
    assert chain.losses() == straight.losses(), chain.story()
    last = {step: loss for step, loss in chain.validation().items() if step == STEPS}
    assert last == {STEPS: straight.validation()[STEPS]}
    return True
