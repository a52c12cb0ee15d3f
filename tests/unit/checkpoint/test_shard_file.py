"""The file of a rank is a file of the safetensors package, and one that is not is refused before anything is believed."""

import json
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load, save

from pretrain.checkpoint.disk.manifest import DamagedCheckpointError
from pretrain.checkpoint.disk.shard_file import MAX_HEADER_BYTES, ShardFile, header_bytes

SHAPES = st.lists(st.one_of(st.tuples(st.integers(1, 9)), st.tuples(st.integers(1, 5), st.integers(1, 5))), max_size=5)


def tensors_of(shapes: list[tuple[int, ...]]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {f"layer.{i}/param@{i}": random.standard_normal(shape, np.float32) for i, shape in enumerate(shapes)}


def content_of(tensors: dict[str, np.ndarray]) -> bytes:
    head = header_bytes((name, values.shape) for name, values in tensors.items())
    return head + b"".join(values.tobytes() for values in tensors.values())


def read_all(path: Path, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    file, found = ShardFile(path), {}
    for name, values in tensors.items():
        found[name] = np.empty_like(values)
        file.read(name, values.shape, 0, found[name])
    file.close()
    return found


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


@given(SHAPES)
def test_the_safetensors_package_reads_what_a_rank_writes(shapes: list[tuple[int, ...]]) -> None:
    tensors = tensors_of(shapes)
    assert_equal(load(content_of(tensors)), tensors)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SHAPES)
def test_a_rank_reads_what_the_safetensors_package_writes(tmp_path: Path, shapes: list[tuple[int, ...]]) -> None:
    tensors = tensors_of(shapes)
    (tmp_path / "file").write_bytes(save(tensors, metadata={"format": "np"}))
    assert_equal(read_all(tmp_path / "file", tensors), tensors)


def test_the_numbers_begin_where_they_are_aligned_and_any_part_of_an_entry_can_be_read(tmp_path: Path) -> None:
    tensors = tensors_of([(4, 6), (5,)])
    (tmp_path / "file").write_bytes(content_of(tensors))
    assert len(header_bytes([("a", (1,))])) % 8 == 0
    file, out = ShardFile(tmp_path / "file"), np.empty(7, np.float32)
    file.read("layer.0/param@0", (4, 6), 8, out)
    assert np.array_equal(out, tensors["layer.0/param@0"].reshape(-1)[8:15])
    with safe_open(str(tmp_path / "file"), "numpy") as theirs:
        assert set(theirs.keys()) == set(tensors)
    with pytest.raises(DamagedCheckpointError, match=r"has no entry layer.0/param@0 of shape \(6, 4\)"):
        file.read("layer.0/param@0", (6, 4), 0, out)
    with pytest.raises(DamagedCheckpointError, match="has no entry nothing"):
        file.read("nothing", (6, 4), 0, out)
    (tmp_path / "file").write_bytes(content_of(tensors)[:-4])  # after it was opened
    with pytest.raises(DamagedCheckpointError, match=r"ends inside layer.1/param@1"):
        file.read("layer.1/param@1", (5,), 0, np.empty(5, np.float32))
    file.close()


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes


def with_header(fields: Any, numbers: bytes = bytes(8)) -> bytes:
    text = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return len(text).to_bytes(8, "little") + text + numbers


MALFORMED = {
    "empty": (b"", "not a valid safetensors file"),
    "shorter than a length": (b"\1\0\0", "not a valid safetensors file"),
    "longer than the file": (b"\xff\0\0\0\0\0\0\0{}", "the header has 255 bytes in a file of 10"),
    "huge": (b"\xff" * 8 + b"{}", "the header has 18,446,744,073,709,551,615 bytes in a file of 10"),
    "at the limit of the format": (MAX_HEADER_BYTES.to_bytes(8, "little"), "the header has 100,000,000 bytes in a file of 8"),
    "no json": (with_header(b"{'a': 1}"), "JSONDecodeError"),
    "no text": (with_header(b"\xff\xfe\xfa"), "not a valid safetensors file"),
    "a list": (with_header([1]), "not a valid safetensors file"),
    "a number": (with_header(3), "not a valid safetensors file"),
    "nothing": (with_header(None), "not a valid safetensors file"),
    "deep": (with_header(b"[" * 100_000), "RecursionError"),
    "an entry that is none": (with_header({"a": 3}), "TypeError"),
    "no offsets": (with_header({"a": {"dtype": "F32", "shape": [2]}}), "KeyError"),
    "three offsets": (with_header({"a": entry(data_offsets=[0, 8, 9])}), "ValueError"),
    "another dtype": (with_header({"a": entry(dtype="F64")}), "a must be F32"),
    "no dtype": (with_header({"a": entry(dtype=None)}), "a must be F32"),
    "a negative offset": (with_header({"a": entry(data_offsets=[-8, 0])}), "integers from 0"),
    "a negative length": (with_header({"a": entry(shape=[-2])}), "integers from 0"),
    "two negative lengths": (with_header({"a": entry(shape=[-1, -2])}), "integers from 0"),
    "a fraction": (with_header({"a": entry(shape=[2.0])}), "integers from 0"),
    "an offset as text": (with_header({"a": entry(data_offsets=["0", "8"])}), "integers from 0"),
    "true": (with_header({"a": entry(shape=[True, 2])}), "integers from 0"),
    "a shape that is none": (with_header({"a": entry(shape=7)}), "TypeError"),
    "a shape of other size": (with_header({"a": entry(shape=[3])}), r"a of shape \(3,\) must start at byte 0"),
    "a huge shape": (with_header({"a": entry(shape=[1 << 40, 1 << 40], data_offsets=[0, 1 << 82])}), "describes .* bytes of data, and 8 follow"),
    "a gap": (with_header({"a": entry(), "b": entry(data_offsets=[12, 20])}, bytes(20)), "b of shape .* must start at byte 8"),
    "an overlap": (with_header({"a": entry(), "b": entry(data_offsets=[4, 12])}, bytes(12)), "b of shape .* must start at byte 8"),
    "the same twice": (with_header({"a": entry(), "b": entry()}), "b of shape .* must start at byte 8"),
    "cut": (with_header({"a": entry()}, bytes(7)), "describes 8 bytes of data, and 7 follow"),
    "longer": (with_header({"a": entry()}, bytes(9)), "describes 8 bytes of data, and 9 follow"),
}  # fmt: skip


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Whoever asks for much memory gets an error that no test expects."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_no_such_file_is_refused_by_name(tmp_path: Path, case: str) -> None:
    content, complaint = MALFORMED[case]
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(
        DamagedCheckpointError,
        match=f"file is not a valid safetensors file.*{complaint}"
        if " safetensors file" not in complaint
        else complaint,
    ):
        ShardFile(tmp_path / "file")


def test_a_file_that_is_not_there_or_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("elsewhere")
    for path in (tmp_path / "nowhere", tmp_path / "link", tmp_path):
        with pytest.raises(DamagedCheckpointError, match="cannot be read"):
            ShardFile(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_change_of_the_header_is_refused_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    """No other error than that of a damaged checkpoint, whatever byte it is."""
    tensors = tensors_of([(2, 3), (4,)])
    content = bytearray(content_of(tensors))
    for _ in range(data.draw(st.integers(1, 3))):
        length = 8 + int.from_bytes(content_of(tensors)[:8], "little")
        content[data.draw(st.integers(0, length - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "file").write_bytes(content)
    try:
        read_all(tmp_path / "file", tensors)
    except DamagedCheckpointError:
        return
