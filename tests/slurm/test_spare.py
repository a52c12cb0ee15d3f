"""Spare nodes on a real Slurm of three nodes, of which two train: a job outlives a node, and trains what an unbroken run trains."""

import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.slurm.chains import INTERVAL, STEPS, Chain
from tests.slurm.cluster import Cluster

ONE_RANK_A_NODE = ("parallel.tensor_model_parallel_size=1", "parallel.data_parallel_size=2")
FAULTS = {
    "slow": "clock = time.perf_counter; time.perf_counter = lambda: 50 * clock()",
    "broken": "os.fsync = lambda _: open('/no such disk')",
}
"""What the check of n1 begins with: a clock by which the node takes fifty times as long as it does, a disk that takes no write."""


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


@pytest.mark.parametrize("fault", FAULTS)
def test_a_node_that_preflight_finds_slow_or_broken_is_the_one_that_idles(
    fault: str, chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import os, time\n"
        "is_check = b'launch.preflight.node_check' in open('/proc/self/cmdline', 'rb').read()\n"
        f"if is_check and os.environ.get('SLURMD_NODENAME') == 'n1':\n    {FAULTS[fault]}\n"
    )
    monkeypatch.setitem(
        chain.cluster.env, "PYTHONPATH", f"{tmp_path / 'site'}:{chain.cluster.env.get('PYTHONPATH', '')}"
    )
    short = replace(chain, overrides=(*chain.overrides, "train.train_steps=2"))
    (job,) = short.submit("--hours", "0.5", "--spare-nodes", "1", "--preflight")
    short.until_over()
    assert short.decisions() == [("finish", "the run is complete")], short.story()
    (chosen,) = short.records("chosen")
    assert (chosen["nodes"], chosen["left_out"]) == (["n2", "n3"], ["n1"]), short.story()
    with tarfile.open(short.run_dir / "launch" / f"{job}-0" / "logs.tar.gz") as archive:
        names = {Path(name).parts[1] for name in archive.getnames() if len(Path(name).parts) > 1}
    assert {"n2", "n3"} <= names and "n1" not in names
    listed = chain.cluster.nodes_file.read_text() if chain.cluster.nodes_file.exists() else ""
    if fault == "broken":
        assert chosen["exclude"] == chosen["listed"] == ["n1"] and chosen["reason"] == "n1 is broken"
        assert "n1 | 20" in listed and "preflight: cannot write to the run folder" in listed
    else:
        times = re.fullmatch(r"n1 is ([\d.]+) times as slow as the others", chosen["reason"])
        assert times and float(times[1]) > 10 and chosen["exclude"] == [] and not listed, chosen


def test_a_job_whose_script_is_lost_with_its_node_goes_back_to_the_queue(chain: Chain) -> None:
    (job,) = chain.submit("--hours", "0.5", "--spare-nodes", "1")
    chain.until_step(INTERVAL + 3)
    chain.cluster.kill_node("n1")
    chain.until(lambda: chain.cluster.job(job)["Restarts"] == "1", "the job to be put back")
    chain.cluster.start_node("n1")
    chain.until_over()
    assert chain.decisions()[0] == ("requeue", "lost n1"), chain.story()
    assert chain.decisions()[-1] == ("finish", "the run is complete")
