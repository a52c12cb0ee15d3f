"""Nodes with a planted fault on a real Slurm: found, listed, excluded from waiting jobs of every chain, freed again."""

import subprocess
import sys
from pathlib import Path

import pytest

from launch.chain.avoid import applied_nodes
from tests.slurm.chains import Chain
from tests.slurm.cluster import Cluster

ONE_RANK = ("parallel.tensor_model_parallel_size=1", "parallel.data_parallel_size=1", "train.train_steps=2")
FAULT = """
import os
here = os.environ.get("SLURMD_NODENAME") == "n1"
if here and {rank} and "RANK" in os.environ:
    import pretrain.train.loop as loop
    def fails(*_, **__):
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
    loop.train_step = fails
if here and not {rank} and b"launch.preflight.node_check" in open("/proc/self/cmdline", "rb").read():
    def fails(_):
        raise OSError(5, "Input/output error")
    os.fsync = fails
"""
"""What Python runs as it starts: on n1 a GPU whose memory fails in the first step, or a disk that takes no write of the check."""


@pytest.fixture
def sick(cluster: Cluster, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The cluster, of which n1 has a fault."""
    (tmp_path / "sick").mkdir()
    (tmp_path / "sick" / "sitecustomize.py").write_text(FAULT.format(rank=request.param == "exit code"))
    monkeypatch.setitem(cluster.env, "PYTHONPATH", f"{tmp_path / 'sick'}:{cluster.env.get('PYTHONPATH', '')}")
    return cluster


def excluded(cluster: Cluster, job: int) -> str:
    return cluster.job(job)["ExcNodeList"]


def nodes(cluster: Cluster, *options: str) -> "subprocess.CompletedProcess[str]":
    """``fanal launch nodes``."""
    command = [sys.executable, "-m", "launch", "nodes", *options]
    return subprocess.run(command, env=cluster.env, capture_output=True, text=True, timeout=60)


def waiting_job_of_another_chain(cluster: Cluster, config: Path, folder: Path) -> tuple[Chain, int]:
    """A chain of a job that is held."""
    chain = Chain(cluster, config, folder, overrides=ONE_RANK)
    done = chain.launch("render", "--nodes", "1", "--hours", "0.5")
    assert done.returncode == 0, done.stderr
    return chain, cluster.sbatch(folder / "launch" / "job.sbatch", "--hold")


@pytest.mark.parametrize("sick", ["exit code", "preflight"], indirect=True)
def test_a_sick_node_is_excluded_from_the_jobs_of_all_chains_and_the_next_start_is_elsewhere(
    sick: Cluster, small_run: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    by_exit_code = "exit code" in request.node.name
    other, held = waiting_job_of_another_chain(sick, small_run, tmp_path / "other")
    chain = Chain(sick, small_run, tmp_path / "run", overrides=ONE_RANK)
    look = "--no-preflight" if by_exit_code else "--preflight"
    done = chain.launch("submit", "--nodes", "1", "--hours", "1", "--slice-hours", "0.5", look)
    assert done.returncode == 0, done.stderr
    first, second = (int(job) for job in chain.records("submitted")[-1]["jobs"])
    chain.until(lambda: chain.decisions(), "the first decision")
    chain.until(lambda: excluded(sick, held) != "(null)", "the other chain's job to be kept off")
    assert excluded(sick, held) == "n1" and excluded(sick, second) == "n1", chain.story()
    entry = sick.nodes_file.read_text().splitlines()[-1]
    why = (
        "rank 0 there ended with exit code 71: its hardware failed"
        if by_exit_code
        else "preflight: cannot write to the run folder"
    )
    assert entry.startswith("n1 | 20") and why in entry and f"job {first}-0" in entry
    sick.scontrol("release", held)
    chain.until_over()
    assert [action for action, _ in chain.decisions()] == ["requeue", "finish"], chain.story()
    assert chain.decisions()[0][1] == "lost n1" and chain.records("decided")[0]["listed"] == ["n1"]
    assert [start["nodes"] for start in chain.records("started")] == [["n1"], ["n2"]]
    assert any(why in record["reason"] and record["kept_off"] == ["n1"] for record in chain.records("nodes"))
    assert other.decisions() == [("finish", "the run is complete")], "a node of the other chain is n2, too"
    assert other.records("started")[0]["nodes"] == ["n2"]
    assert any(why in record["reason"] for record in other.records("nodes")), "it says in its own file why"


def test_a_list_edited_by_hand_is_obeyed_and_what_expires_is_freed(
    cluster: Cluster, small_run: Path, tmp_path: Path
) -> None:
    chain, job = waiting_job_of_another_chain(cluster, small_run, tmp_path / "run")
    cluster.scontrol("update", f"JobId={job}", "ExcNodeList=n2")
    cluster.nodes_file.write_text("# ours\nn1 | 2999-01-01 | slow fan\n")
    done = nodes(cluster, "--apply")
    assert "needs n1: no other nodes could take the place" in done.stderr, (
        "n2 is excluded by the user: n1 is all there is"
    )
    assert excluded(cluster, job) == "n2"
    cluster.scontrol("update", f"JobId={job}", "ExcNodeList=")
    done = nodes(cluster, "--apply")
    assert excluded(cluster, job) == "n1" and "kept off n1 (slow fan, until 2999-01-01 00:00 UTC)" in done.stderr
    assert applied_nodes(cluster.nodes_file) == {str(job): ["n1"]}
    cluster.nodes_file.write_text("# ours\nn1 | 2020-01-01 | slow fan\n")
    assert "may use n1 again" in nodes(cluster, "--apply").stderr
    assert excluded(cluster, job) == "(null)"
    assert nodes(cluster, "--exclude", "n[1-2]", "--reason", "cooling | both").returncode == 0
    assert excluded(cluster, job) == "n2", "never both: the job could not run"
    assert nodes(cluster, "--allow", "n2").returncode == 0
    assert excluded(cluster, job) == "n1"
    cluster.scontrol("release", job)
    chain.until_over()
    assert chain.records("started")[0]["nodes"] == ["n2"], chain.story()
    text = cluster.nodes_file.read_text()
    assert text.startswith("# ours\n") and "slow fan" not in text and "cooling / both" in text


def test_a_job_that_starts_on_a_node_that_was_just_listed_goes_elsewhere_and_a_broken_line_fails_nothing(
    cluster: Cluster, small_run: Path, tmp_path: Path
) -> None:
    chain, job = waiting_job_of_another_chain(cluster, small_run, tmp_path / "run")
    cluster.nodes_file.write_text("n2 | tomorrow\nn1 | | by hand\n")  # nobody applies it
    refused = nodes(cluster)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "line 1 ('n2 | tomorrow')" in refused.stderr
    cluster.scontrol("release", job)
    chain.until_over()
    assert chain.decisions() == [
        ("requeue", "n1 is to be avoided (by hand, for good)"),
        ("finish", "the run is complete"),
    ]
    assert [start["nodes"] for start in chain.records("started")] == [["n2"]], (
        "the list's second line holds all the same"
    )
    assert "line 1 ('n2 | tomorrow')" in chain.story()
