"""A job of two nodes: it trains what local ranks train, ends as its ranks do, and runs nobody's code but its own."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from omegaconf import OmegaConf

from tests.dist.harness import make_run, run_and_trace
from tests.dist.two_nodes import ROOT, TwoNodes
from tests.runs.cases import DP2

LOSS = re.compile(r'"loss": ([0-9.]+)')


def config(small_run: Path, folder: Path, *overrides: str) -> Path:
    """The resolved config of a run in this folder, as a job has it."""
    path = folder / "config.yaml"
    OmegaConf.save(OmegaConf.structured(make_run(small_run, folder / "run", *DP2, *overrides)), path)
    return path


@pytest.fixture
def endless(small_run: Path, tmp_path: Path) -> Iterator[TwoNodes]:
    """A job that trains until it is told to stop."""
    with TwoNodes(tmp_path / "7-0", config(small_run, tmp_path, "train.train_steps=1000000")) as job:
        yield job


def until(come: object, what: str, limit_s: float = 240) -> None:
    end = time.monotonic() + limit_s
    while not come():  # type: ignore[operator]
        assert time.monotonic() < end, f"waited {limit_s} s for {what}"
        time.sleep(0.05)


def trains(job: TwoNodes) -> bool:
    assert job.is_running(), job.wait()
    metrics = job.attempt.parent / "run" / "metrics.jsonl"
    return metrics.exists() and '"loss"' in metrics.read_text()


def test_it_trains_what_local_ranks_train_and_keeps_every_rank_s_output(small_run: Path, tmp_path: Path) -> None:
    ours = run_and_trace(make_run(small_run, tmp_path / "local", *DP2))
    with TwoNodes(tmp_path / "7-0", config(small_run, tmp_path)) as job:
        said = job.wait()
    assert [node.returncode for node in job.nodes] == [0, 0], said
    assert job.codes() == {"rank-00000": "0", "rank-00001": "0"}
    losses = LOSS.findall((tmp_path / "run" / "metrics.jsonl").read_text())
    assert [float(loss) for loss in losses] == list(ours.losses.values())
    logs = tmp_path / "7-0" / "logs"
    assert {str(path.relative_to(logs)) for path in logs.rglob("*.log")} == {
        f"n{node}/0/{name}.log" for node in (0, 1) for name in ("stdout", "stderr")
    }
    assert (logs / "n0/0/stdout.log").read_text() in said[0], "the job's output shows rank 0's"


def test_a_request_to_stop_reaches_every_rank_and_the_nodes_wait_for_the_checkpoint(endless: TwoNodes) -> None:
    until(lambda: trains(endless), "a step")
    for node in endless.nodes:
        os.killpg(node.pid, signal.SIGTERM)  # as Slurm does, to the script and to its ranks
    said = endless.wait()
    assert [node.returncode for node in endless.nodes] == [75, 75], said
    assert endless.codes() == {"rank-00000": "75", "rank-00001": "75"}
    assert list((endless.attempt.parent / "run" / "checkpoints").glob("step-*"))


def test_a_rank_that_is_killed_takes_its_node_with_it(endless: TwoNodes) -> None:
    until(lambda: trains(endless), "a step")
    endless.ranks()[1].kill()
    said = endless.wait()
    assert endless.nodes[1].returncode == 137, said
    assert endless.nodes[0].returncode not in (0, 75), "its peer finds out by itself"
    assert "rank-00001" not in endless.codes()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
@pytest.mark.parametrize("wanted", ["rendezvous", ""], ids=["torchrun's state", "every key"])
def test_a_stranger_who_writes_pickles_into_the_store_runs_nothing(
    wanted: str, small_run: Path, tmp_path: Path
) -> None:
    job = TwoNodes(tmp_path / "7-0", config(small_run, tmp_path, "parallel.timeout_s=20"))
    marker = Path("/tmp") / f"fanal-marker-{os.getpid()}-{job.port}"
    words = [sys.executable, str(ROOT / "tests/dist/stranger.py"), str(marker), wanted, str(job.port)]
    stranger = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/")
    assert stranger.stdout is not None
    try:
        assert stranger.stdout.readline() == "ready\n"
        with job:
            job.wait()
        wrote = stranger.communicate("stop", timeout=60)[0].splitlines()
        assert wrote and all(line.startswith("wrote ") for line in wrote), "the stranger reached the store"
        assert not marker.exists(), f"a stranger's code ran as {marker.read_text()}"
    finally:
        stranger.kill()
        marker.unlink(missing_ok=True)


def listening(processes: list[psutil.Process]) -> set[str]:
    """Addresses at which these processes listen."""
    return {
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


def test_local_ranks_listen_on_loopback_alone(small_run: Path, tmp_path: Path) -> None:
    overrides = (f"run_dir={tmp_path / 'run'}", "train.train_steps=1000000", "parallel.data_parallel_size=2")
    command = [sys.executable, "-m", "pretrain", "train", str(small_run), *overrides]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        metrics = tmp_path / "run" / "metrics.jsonl"
        try:
            until(lambda: metrics.exists() and '"loss"' in metrics.read_text(), "a step")
            found = listening(psutil.Process(process.pid).children(recursive=True))
        finally:
            for rank in psutil.Process(process.pid).children(recursive=True):
                rank.kill()
    assert found == {"127.0.0.1"}


def test_the_store_of_a_job_listens_on_the_network_that_ranks_were_told(endless: TwoNodes) -> None:
    until(lambda: trains(endless), "a step")
    port = int(endless.ranks()[0].environ()["MASTER_PORT"])
    addresses = {
        connection.laddr.ip
        for connection in endless.ranks()[0].net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
    }
    assert addresses == {"127.0.0.1"}
    assert listening(endless.processes()) <= {"127.0.0.1", socket.gethostbyname(socket.gethostname())}
