"""The script of every config on every site is one that Slurm would queue, on a cluster with the sites' partitions, features and GPUs in its books."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.golden.launch_scripts import golden_text, pairs
from tests.slurm.cluster import Cluster, why_no_cluster

# Nodes of the kind that a cloud starts when they are needed: Slurm plans with them as if they were there. Accounts and QoS
# are not looked up, since there is no accounting.
BOOKS = """
GresTypes=gpu
SuspendProgram=/bin/true
ResumeProgram=/bin/true
SuspendTime=3600
NodeName=h[1-128] CPUs=96 RealMemory=500000 Gres=gpu:4 Feature=h100 State=CLOUD
NodeName=a[1-64] CPUs=64 RealMemory=500000 Gres=gpu:8 Feature=a100 State=CLOUD
NodeName=v[1-128] CPUs=40 RealMemory=180000 Gres=gpu:4 Feature=v100-32g State=CLOUD
NodeName=g[1-64] CPUs=64 RealMemory=500000 Gres=gpu:8 State=CLOUD
PartitionName=gpu_p6 Nodes=h[1-128] DefaultTime=10 MaxTime=INFINITE State=UP
PartitionName=gpu_p5 Nodes=a[1-64] DefaultTime=10 MaxTime=INFINITE State=UP
PartitionName=gpu_p13 Nodes=v[1-128] DefaultTime=10 MaxTime=INFINITE State=UP
PartitionName=gpus Nodes=g[1-64] Default=YES DefaultTime=10 MaxTime=INFINITE State=UP
"""


@pytest.fixture(scope="module")
def books(cluster: Cluster) -> Iterator[Cluster]:
    """A controller without nodes that run. Asked for after ``cluster``, which says whether there is a Slurm."""
    assert why_no_cluster() is None
    with Cluster(nodes=(), more_config=BOOKS) as started:
        yield started


def ask_slurm(books: Cluster, script: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["sbatch", "--test-only", *options, str(script)], env=books.env, capture_output=True, text=True, timeout=60
    )


def write(name: str, folder: Path) -> Path:
    """The script of this name."""
    path = folder / f"{name}.sbatch"
    path.write_text(golden_text(*pairs()[name]))
    return path


@pytest.mark.parametrize("name", pairs())
def test_slurm_would_queue_the_script(name: str, books: Cluster, tmp_path: Path) -> None:
    answer = ask_slurm(books, write(name, tmp_path))
    assert answer.returncode == 0, answer.stderr
    assert " to start at " in answer.stderr


def test_slurm_would_not_queue_one_that_asks_for_more_than_there_is(books: Cluster, tmp_path: Path) -> None:
    script = write("jean-zay-h100-lucie-7b-pretrain", tmp_path)
    assert ask_slurm(books, script, "--nodes=129").returncode != 0
    assert ask_slurm(books, script, "--constraint=b200").returncode != 0
