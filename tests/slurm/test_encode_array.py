"""Text to tokens by an array of jobs on a real Slurm, of which some fail."""

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.slurm.cluster import Cluster
from tokenizer.encoding.encode import encode

PARTS = 3
ENOUGH_S = 600


def lines_of(prefix: Path) -> list[dict]:
    path = prefix.with_name(prefix.name + ".launch") / "jobs.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def submit(cluster: Cluster, tokenizer: Path, texts: Path, prefix: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "launch", "render-encode", "--site", "local", "--tokenizer", str(tokenizer), "--input", str(texts),
         "--output", str(prefix), "--parts", str(PARTS), "--hours", "0.2", "--workers", "1", "--shuffle-seed", "7", "--submit"],
        env=cluster.env, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def until_over(cluster: Cluster, prefix: Path) -> None:
    end = time.monotonic() + ENOUGH_S
    while cluster.queue():
        assert time.monotonic() < end, f"{cluster.queue()}\n{lines_of(prefix)}"
        time.sleep(0.2)


def logs_of(prefix: Path) -> str:
    folder = prefix.with_name(prefix.name + ".launch")
    return "\n".join(f"--- {path}\n{path.read_text()[-2000:]}" for path in sorted(folder.rglob("*.out")))


def process_of_task(number: int, prefix: Path) -> psutil.Process | None:
    """The encoding of this task that runs now, of the array that writes this shard: another test's may run beside it."""
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            is_task = f"{number}/{PARTS}" in words and "encode" in words and "bash" not in words[0]
            if is_task and any(word.startswith(str(prefix)) for word in words):
                return process
        except (psutil.NoSuchProcess, psutil.AccessDenied, IndexError):
            continue
    return None


@pytest.fixture
def text(data_folder: Path) -> Path:
    return data_folder / "corpus" / "train" / "code.jsonl"


def test_a_task_that_is_killed_is_queued_again_and_the_merge_is_what_one_machine_writes(
    cluster: Cluster, data_folder: Path, text: Path, tmp_path: Path
) -> None:
    prefix = tmp_path / "shards" / "code"
    prefix.parent.mkdir()
    submit(cluster, data_folder / "tokenizer", text, prefix)
    end = time.monotonic() + ENOUGH_S
    while (victim := process_of_task(2, prefix)) is None:
        assert time.monotonic() < end, logs_of(prefix)
        time.sleep(0.02)
    victim.kill()
    until_over(cluster, prefix)
    assert [line["event"] for line in lines_of(prefix)] == ["submitted", "retried", "queued", "merged"], logs_of(prefix)
    whole = tmp_path / "whole"
    encode(data_folder / "tokenizer", [text], whole, shuffle_seed=7)
    for ending in ("bin", "idx"):
        assert prefix.with_suffix(f".{ending}").read_bytes() == whole.with_suffix(f".{ending}").read_bytes()


def test_text_that_cannot_be_read_is_not_tried_again(
    cluster: Cluster, data_folder: Path, text: Path, tmp_path: Path
) -> None:
    prefix = tmp_path / "shards" / "code"
    prefix.parent.mkdir()
    broken = tmp_path / "broken.jsonl"
    broken.write_text(text.read_text() + "{not json\n")
    submit(cluster, data_folder / "tokenizer", broken, prefix)
    until_over(cluster, prefix)
    assert [line["event"] for line in lines_of(prefix)] == ["submitted", "stopped"], logs_of(prefix)
    assert not prefix.with_suffix(".json").exists()
    assert "broken.jsonl" in logs_of(prefix)
