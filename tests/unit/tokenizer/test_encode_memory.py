"""The memory of an encode run does not grow with its input."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import debian_text

ROOT = Path(__file__).parents[3]
GIB = 1 << 30


def memory_bytes(process: int) -> int:
    """Proportional set size of a process and its children: pages shared after a fork count once."""
    total = 0
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    for number in (process, *map(int, children)):
        lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
        total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return total


def test_half_a_gigabyte_of_real_text_is_shuffled_below_one_gib(tmp_path: Path, tokenizer_dir: Path) -> None:
    if not debian_text.is_available():
        pytest.skip("translated manual pages come as Debian packages, and this machine has no apt-get")
    pages = b"".join(path.read_bytes() for path in debian_text.make_text(ROOT / ".cache" / "debian-text"))
    big = tmp_path / "big.jsonl"
    with big.open("wb") as stream:
        while stream.tell() < 500e6:
            stream.write(pages)
    del pages
    words = ["encode", "--tokenizer", str(tokenizer_dir), "--input", str(big), "--output", str(tmp_path / "shard")]
    words += ["--workers", "2", "--shuffle-seed", "1"]
    process = subprocess.Popen([sys.executable, "-m", "tokenizer", *words], cwd=ROOT)
    highest = 0
    while process.poll() is None:
        try:
            highest = max(highest, memory_bytes(process.pid))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # somebody ended while we looked
        time.sleep(0.05)
    assert process.returncode == 0
    assert 0.05 * GIB < highest < GIB, f"{highest / GIB:.2f} GiB"
    big.unlink()
