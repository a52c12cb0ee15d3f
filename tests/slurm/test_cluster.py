"""The cluster of the tests behaves as jobs rely on: signals, requeue, lost nodes, and nothing left behind."""

import time
from collections import Counter
from pathlib import Path
from textwrap import dedent

import pytest

from launch import slurm
from tests.slurm.cluster import KILL_WAIT_S, NODES, REQUEUE_DELAY_S, Cluster, fields

ENOUGH_S = 120
"""For what takes Slurm a second or two: other clusters start their jobs on the same cores."""
LOST_NODE_S = 60
"""A silent node is down after SlurmdTimeout and up to two rounds of pings."""


def write_job(folder: Path, text: str) -> Path:
    """A batch script that writes into out.txt beside it."""
    path = folder / "job.sh"
    path.write_text(f"#!/bin/bash\n#SBATCH --open-mode=append --output={folder}/out.txt\n{dedent(text)}")
    return path


def said(folder: Path) -> list[str]:
    path = folder / "out.txt"
    return path.read_text().splitlines() if path.exists() else []


def wait_until_said(folder: Path, *lines: str, timeout_s: float = ENOUGH_S) -> None:
    """Return once the jobs have written these lines, in any order and among others."""
    end = time.monotonic() + timeout_s
    while missing := Counter(lines) - Counter(said(folder)):
        assert time.monotonic() < end, f"not said after {timeout_s:g} s: {dict(missing)}; but: {said(folder)}"
        time.sleep(0.1)


def test_srun_runs_its_tasks_on_both_nodes(cluster: Cluster, tmp_path: Path) -> None:
    script = write_job(tmp_path, "srun bash -c 'echo rank $SLURM_PROCID on $SLURMD_NODENAME'\n")
    job = cluster.wait_for(cluster.sbatch(script, "-N2", "--ntasks-per-node=2"), "COMPLETED", ENOUGH_S)
    assert sorted(said(tmp_path)) == ["rank 0 on n1", "rank 1 on n1", "rank 2 on n2", "rank 3 on n2"]
    assert (job["BatchHost"], job["TimeLimit"]) == ("n1", "00:10:00")


def test_the_signal_before_the_end_reaches_the_batch_script_alone(cluster: Cluster, tmp_path: Path) -> None:
    text = """\
        trap 'echo the script got USR1; exit 0' USR1
        srun bash -c 'trap "echo a task got USR1" USR1; for i in $(seq 50); do sleep 0.2; done' &
        while true; do wait; done
    """
    # Slurm sends it up to a minute early, so that here it is sent as soon as the job runs.
    job = cluster.sbatch(write_job(tmp_path, text), "-N2", "--time=1", "--signal=B:USR1@60")
    cluster.wait_for(job, "COMPLETED", ENOUGH_S)
    assert "the script got USR1" in said(tmp_path)
    assert "a task got USR1" not in said(tmp_path)


def test_a_job_that_requeues_itself_starts_again_and_knows_it(cluster: Cluster, tmp_path: Path) -> None:
    text = """\
        echo restarts: ${SLURM_RESTART_COUNT:-0}
        [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] && exit 0
        trap 'exit 0' TERM
        scontrol requeue $SLURM_JOB_ID
        sleep 10 & wait
    """
    job = cluster.wait_for(cluster.sbatch(write_job(tmp_path, text)), "COMPLETED", REQUEUE_DELAY_S + ENOUGH_S)
    assert [line for line in said(tmp_path) if line.startswith("restarts")] == ["restarts: 0", "restarts: 1"]
    assert job["Restarts"] == "1"


@pytest.mark.parametrize("lost", NODES)
def test_a_lost_node_requeues_its_jobs_unless_they_refuse(cluster: Cluster, tmp_path: Path, lost: str) -> None:
    text = """\
        [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] && exit 0
        srun bash -c 'echo up $SLURMD_NODENAME; exec sleep 300'
    """
    script = write_job(tmp_path, text)
    requeued, refusing = (cluster.sbatch(script, "-N2", option) for option in ("--requeue", "--no-requeue"))
    for job in (requeued, refusing):
        cluster.wait_for(job, "RUNNING", ENOUGH_S)
    wait_until_said(tmp_path, "up n1", "up n1", "up n2", "up n2")  # a launch on a node just lost would fail the job
    cluster.kill_node(lost)
    assert cluster.processes(lost) == []
    assert cluster.wait_for(refusing, "NODE_FAIL", LOST_NODE_S)["Reason"] == "NodeDown"
    assert cluster.nodes()[lost].startswith("DOWN")
    cluster.start_node(lost)
    assert cluster.wait_for(requeued, "COMPLETED", REQUEUE_DELAY_S + ENOUGH_S)["Restarts"] == "1"


def test_a_second_cluster_starts_beside_the_first_and_leaves_no_process(cluster: Cluster, tmp_path: Path) -> None:
    script = write_job(tmp_path, "setsid sleep 300 & srun sleep 300\n")
    with Cluster() as second:
        second.wait_for(second.sbatch(script, "-N2"), "RUNNING", ENOUGH_S)
        assert second.processes()
    assert second.processes() == []
    assert not second.folder.exists()
    assert set(cluster.nodes()) == set(NODES)


def test_a_daemon_that_does_not_come_up_is_named_with_its_log(cluster: Cluster) -> None:
    with pytest.raises(RuntimeError, match=r"n3 exited with 1; the end of its log:\n.*"):
        cluster.start_node("n3")


def test_jobs_that_ignore_every_signal_are_cleared_at_once(cluster: Cluster, tmp_path: Path) -> None:
    script = write_job(
        tmp_path, "trap '' TERM\nsrun bash -c \"trap '' TERM; setsid sleep 300 & sleep 300\" & wait; sleep 300\n"
    )
    cluster.wait_for(cluster.sbatch(script, "-N2"), "RUNNING", ENOUGH_S)
    cluster.sbatch(script, "-N2", "--exclusive")
    began = time.monotonic()
    cluster.clear()
    assert cluster.queue() == {}
    assert time.monotonic() - began < KILL_WAIT_S / 2


def test_the_nodes_that_a_waiting_job_is_kept_off_are_replaced(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in cluster.env.items():
        monkeypatch.setenv(name, value)
    job = str(cluster.sbatch(write_job(tmp_path, "true\n"), "--hold", "--exclude=n2"))

    def excluded(job: str) -> set[str]:
        return slurm.excluded_in(slurm.job_fields(job))

    assert excluded(job) == {"n2"}
    for nodes in ({"n1", "n2"}, {"n2"}, set[str]()):
        slurm.set_excluded(job, nodes)
        assert excluded(job) == nodes
    assert excluded(str(cluster.sbatch(write_job(tmp_path, "true\n"), "--hold"))) == set()


def test_values_of_several_words_belong_to_the_key_before_them() -> None:
    line = "NodeName=n1 Reason=Not responding [root@now] Features=(null) ReqB:S:C:T=0:0:*:* TRES=cpu=4,node=2"
    expected = {"NodeName": "n1", "Reason": "Not responding [root@now]", "Features": "(null)"}
    assert fields(line) == expected | {"ReqB:S:C:T": "0:0:*:*", "TRES": "cpu=4,node=2"}
