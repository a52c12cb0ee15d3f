"""Spare nodes on a real Slurm of three nodes, of which two train: a job outlives a node, and trains what an unbroken run trains."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.chains import INTERVAL, STEPS, Chain
from tests.slurm.cluster import Cluster

ONE_RANK_A_NODE = ("parallel.tensor_model_parallel_size=1", "parallel.data_parallel_size=2")


@pytest.fixture(scope="module")
def three(cluster: Cluster) -> Iterator[Cluster]:
    """A cluster of three nodes. Asked for after ``cluster``, which says whether there is a Slurm."""
    with Cluster(("n1", "n2", "n3")) as started:
        yield started


@pytest.fixture
def chain(three: Cluster, small_run: Path, tmp_path: Path) -> Iterator[Chain]:
    yield Chain(three, small_run, tmp_path / "run", overrides=ONE_RANK_A_NODE)
    three.clear()
    for node in three.names:
        three.scontrol("update", f"NodeName={node}", "State=UNDRAIN")


def trains_what_local_ranks_train(chain: Chain, run_dir: Path) -> bool:
    """Whether the run of a chain is, bit for bit, the one of the same config that nothing happens to."""
    config = str(chain.run_dir / "launch" / "config.yaml")
    subprocess.run(
        [sys.executable, "-m", "pretrain", "train", config, f"run_dir={run_dir}"],
        check=True, timeout=600, capture_output=True,
    )  # fmt: skip
    straight = Chain(chain.cluster, chain.config, run_dir)
    assert sorted(straight.losses()) == list(range(1, STEPS + 1))
    assert chain.losses() == straight.losses(), chain.story()
    return True


def test_a_spare_node_takes_the_place_of_one_that_is_lost(chain: Chain, tmp_path: Path) -> None:
    (job,) = chain.submit("--hours", "0.5", "--spare-nodes", "1")
    chain.until_step(INTERVAL + 3)
    chain.cluster.kill_node("n2")
    chain.until_over()
    (first, second) = chain.decisions()
    assert first[0] == "restart" and first[1].startswith("lost n2; "), chain.story()
    assert second == ("finish", "the run is complete")
    assert [r["nodes"] for r in chain.records("started")] == [["n1", "n2", "n3"], ["n1", "n3"]]
    assert [r["nodes"] for r in chain.records("chosen")] == [["n1", "n2"], ["n1", "n3"]]
    assert chain.records("chosen")[0]["left_out"] == ["n3"]
    assert chain.cluster.job(job)["Restarts"] == "0"
    assert trains_what_local_ranks_train(chain, tmp_path / "straight")


def test_a_node_that_is_drained_trains_no_more_after_a_restart(chain: Chain) -> None:
    (job,) = chain.submit("--hours", "0.5", "--spare-nodes", "1")
    chain.until_step(INTERVAL + 3)
    chain.cluster.scontrol("update", "NodeName=n1", "State=DRAIN", "Reason=sick")
    chain.kill_a_rank()
    chain.until_over()
    assert [action for action, _ in chain.decisions()] == ["restart", "finish"], chain.story()
    assert [r["nodes"] for r in chain.records("chosen")] == [["n1", "n2"], ["n2", "n3"]], "the script stays on n1"
    assert chain.cluster.job(job)["Restarts"] == "0"


def test_a_job_whose_script_is_lost_with_its_node_goes_back_to_the_queue(chain: Chain) -> None:
    (job,) = chain.submit("--hours", "0.5", "--spare-nodes", "1")
    chain.until_step(INTERVAL + 3)
    chain.cluster.kill_node("n1")
    chain.until(lambda: chain.cluster.job(job)["Restarts"] == "1", "the job to be put back")
    chain.cluster.start_node("n1")
    chain.until_over()
    assert chain.decisions()[0] == ("requeue", "lost n1"), chain.story()
    assert chain.decisions()[-1] == ("finish", "the run is complete")
