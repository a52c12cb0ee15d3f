"""Restarts inside the allocation of a job, on a real Slurm: the job keeps its number, and trains what an unbroken run trains."""

from pathlib import Path

import pytest

from tests.runs.shared import shared_folder
from tests.slurm.chains import INTERVAL, Chain, same, unbroken
from tests.slurm.cluster import Cluster


@pytest.fixture(scope="module")
def straight(cluster: Cluster, small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """The unbroken run, for all workers."""
    return unbroken(Chain(cluster, small_run, shared_folder(tmp_path_factory) / "straight" / "run"))


def starts(chain: Chain) -> list[tuple[str, int, int]]:
    """Job, restart and restart inside its allocation of every start."""
    return [(r["job"], r["restart"], r["inside"]) for r in chain.records("started")]


def test_a_rank_that_is_killed_is_restarted_inside_its_job(
    cluster: Cluster, small_run: Path, tmp_path: Path, straight: Chain
) -> None:
    chain = Chain(cluster, small_run, tmp_path / "run")
    (job,) = chain.submit()
    chain.until_step(INTERVAL + 3)
    chain.ranks()[2].kill()
    chain.until_over()
    (first, second) = chain.decisions()
    assert first[0] == "restart" and first[1].startswith("a crash (exit code 70); "), chain.story()
    assert second == ("finish", "the run is complete")
    assert starts(chain) == [(str(job), 0, 0), (str(job), 0, 1)]
    assert chain.records("started")[1]["step"] == INTERVAL
    assert cluster.job(job)["Restarts"] == "0"
    launch = chain.run_dir / "launch"
    assert (launch / f"{job}-0" / "logs" / "n1" / "0" / "stdout.log").is_file(), "the logs of the first try are its own"
    assert (launch / f"{job}-0.1" / "logs.tar.gz").is_file()
    assert same(chain, straight)


def test_without_time_for_another_checkpoint_a_crash_is_requeued(
    cluster: Cluster, small_run: Path, tmp_path: Path
) -> None:
    rare = ("train.train_steps=1000000", "checkpoint.interval=900000")
    chain = Chain(cluster, small_run, tmp_path / "run", overrides=rare)
    (job,) = chain.submit()
    chain.until_step(3)
    chain.kill_a_rank()
    chain.until(lambda: chain.decisions(), "the decision")
    ((action, reason),) = chain.decisions()
    assert action == "requeue" and reason.startswith("a crash (exit code 70); "), chain.story()
    assert " s until the job is told to stop, " in reason
    chain.until(lambda: cluster.job(job)["Restarts"] == "1", "the job to be put back")
