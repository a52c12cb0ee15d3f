"""A window of gigabytes is memory: it is taken for a file that fills it, and not for kilobytes that unpack to zeros."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import zstandard

from tokenizer.documents.blocks import InputReader

NUM_LINES, LINE_BYTES = 300, 1 << 20


def compressed(path: Path, lines: list[bytes], *, window_log: int) -> Path:
    parameters = zstandard.ZstdCompressionParameters(window_log=window_log, compression_level=1)
    stream = zstandard.ZstdCompressor(
        compression_params=parameters
    ).compressobj()  # of unknown length: the window is as asked
    path.write_bytes(b"".join([*(stream.compress(line) for line in lines), stream.flush()]))
    return path


LINES = [json.dumps({"text": "a" * LINE_BYTES}).encode() + b"\n"] * NUM_LINES


def test_a_window_that_kilobytes_fill_is_refused_and_the_advice_unpacks_it(tmp_path: Path) -> None:
    path = compressed(tmp_path / "a.jsonl.zst", LINES, window_log=31)
    assert path.stat().st_size < 20_000
    *_, last = InputReader([path])
    assert last.problem and last.of_file
    assert re.match(r"asks for a window of 2,147,483,648 bytes in memory, above the usual 134,217,728", last.problem)
    advice = re.search(r"if that is meant, `(.*)` unpacks it", last.problem)
    assert advice
    done = subprocess.run(["bash", "-c", advice[1]], capture_output=True, text=True)
    if done.returncode == 127:
        pytest.skip("the advice names zstd, which is not installed here")
    assert done.returncode == 0, done.stderr
    assert sum(block.data.count(b"\n") for block in InputReader([tmp_path / "a.jsonl"])) == NUM_LINES


@pytest.mark.parametrize(("num_lines", "window_log"), [(NUM_LINES, 27), (3, 31)], ids=["usual window", "little text"])
def test_a_window_that_harms_nobody_is_taken(num_lines: int, window_log: int, tmp_path: Path) -> None:
    path = compressed(tmp_path / "a.jsonl.zst", LINES[:num_lines], window_log=window_log)
    blocks = list(InputReader([path]))
    assert not [block.problem for block in blocks if block.problem]
    assert sum(block.data.count(b"\n") for block in blocks) == num_lines
