"""Files of JSON lines, read from both ends."""

import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fanal import json_lines
from fanal.json_lines import lines_from_end, parse_lines, read_lines
from fanal.run_folder import METRICS_FILE
from fanal.run_progress import RECORD_BEGINS, metrics, newest_metrics

PIECES = st.sampled_from([
    b'{"kind": "step", "step": 1}', b'{"kind": "eval", "held_out_loss": {}}', b'{"kind": "start"}', b'{"kind": "end"}\n', b'{"kind": "st',
    b'{"step": 2}', b"[1]", b"\n", b"\n\n", b"\r\n", b"\xff\xc3", "é €".encode(), b"\0" * 9,
])  # fmt: skip


@settings(max_examples=300)
@given(st.lists(PIECES, max_size=25), st.integers(1, 40))
def test_a_file_read_from_its_end_holds_the_same_records(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], block_bytes: int
) -> None:
    folder = tmp_path_factory.mktemp("lines")
    (folder / METRICS_FILE).write_bytes(b"".join(pieces))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_lines, "BLOCK_BYTES", block_bytes)
        assert b"\n".join(reversed(list(lines_from_end(folder / METRICS_FILE)))) == b"".join(pieces)
        records = list(metrics(folder))
        assert list(newest_metrics(folder))[::-1] == records
        for kinds in (("step",), ("validation", "start")):
            wanted = [record for record in records if record.get("kind") in kinds]
            assert list(newest_metrics(folder, kinds=kinds))[::-1] == wanted


def test_no_file_holds_no_records(tmp_path: Path) -> None:
    assert list(read_lines(tmp_path / "none")) == list(lines_from_end(tmp_path / "none")) == []


def test_a_line_that_is_too_long_for_a_record_costs_no_memory_and_no_other_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The zeros that a power cut leaves have no line's end."""
    monkeypatch.setattr(json_lines, "MAX_LINE_BYTES", 1 << 20)
    monkeypatch.setattr(json_lines, "BLOCK_BYTES", 1 << 16)
    path, whole = tmp_path / METRICS_FILE, [{"kind": "step", "step": number} for number in range(3)]
    lines = [json.dumps(record).encode() for record in whole]
    path.write_bytes(b"\n".join([lines[0], bytes(64 << 20), lines[1], lines[2], bytes(64 << 20)]))
    tracemalloc.start()
    assert list(read_lines(path, begins=RECORD_BEGINS)) == whole
    texts = (line.decode() for line in lines_from_end(path))
    assert list(parse_lines(texts, begins=RECORD_BEGINS)) == whole[::-1]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
