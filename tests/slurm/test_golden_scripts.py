"""The script of every config on every site is one that Slurm would queue, on a cluster with the sites' partitions, features and GPUs in its books."""

import subprocess
from pathlib import Path

import pytest

from tests.golden.launch_scripts import golden_text, pairs
from tests.slurm.cluster import Cluster


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


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("lumi-g-lucie-7b-pretrain", "--partition=small-g"), ("lumi-g-lucie-7b-pretrain", "--time=48:01:00"),
        ("lumi-g-lucie-7b-pretrain", "--cpus-per-task=113"), ("alps-clariden-lucie-7b-pretrain", "--time=12:01:00"),
        ("jupiter-lucie-7b-pretrain", "--gres=gpu:8"), ("marenostrum5-lucie-7b-pretrain", "--time=72:01:00"),
        ("isambard-ai-lucie-7b-pretrain", "--time=24:01:00"), ("leonardo-lucie-7b-pretrain", "--cpus-per-task=33"),
    ],
)  # fmt: skip
def test_slurm_holds_scripts_to_what_a_site_allows(name: str, option: str, books: Cluster, tmp_path: Path) -> None:
    assert ask_slurm(books, write(name, tmp_path), option).returncode != 0
