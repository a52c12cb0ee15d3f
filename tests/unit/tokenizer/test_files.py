from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from fanal.errors import PassingError
from fanal.files import InputFile, block_sha256_of_file, sha256_of_file, write_bytes_durably
from fanal.records import read_record, write_record
from tests.runs.disks import UNREADABLE


@dataclass(frozen=True, kw_only=True)
class Sample:
    count: int
    name: str | None
    inputs: tuple[InputFile, ...] = ()


def test_a_record_reads_back_equal(tmp_path: Path) -> None:
    sample = Sample(
        count=3, name=None, inputs=(InputFile(path="${a}/é.jsonl", bytes=2, first_block=0, block_sha256=("00",)),)
    )
    write_record(tmp_path / "r.json", sample)
    assert read_record(Sample, tmp_path / "r.json", remedy="") == sample
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"count": true, "name": null}', "count holds true, expected an integer"),
        ('{"count": 1, "name": 2}', "name holds 2, expected a string or null"),
        ('{"count": 1}', "key 'name' is missing"),
        ('{"count": 1, "name": "a", "coumt": 2}', "unknown key 'coumt', expected count, name, inputs"),
        (
            '{"count": 1, "name": "a", "inputs": [{"path": "a", "bytes": "2", "first_block": 0, "block_sha256": []}]}',
            'inputs.0.bytes holds "2"',
        ),
        ('{"count": 1, "name": "a", "inputs": 7}', "inputs holds 7, expected an array"),
        ("[]", "the file holds [], expected an object"),
        ('{"count": 1', "cannot be read as JSON"),
    ],
)
def test_a_record_that_does_not_fit_is_refused_with_the_place_and_the_remedy(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "r.json"
    path.write_text(content)
    with pytest.raises(ValueError) as caught:
        read_record(Sample, path, remedy="write it again")
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert str(caught.value).endswith("; write it again")


def test_a_failed_write_leaves_the_old_file_and_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_bytes_durably(path, b"old")

    def full(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("fanal.files.os.fsync", full)
    with pytest.raises(OSError, match="disk full"):
        write_bytes_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_sha256_is_that_of_the_whole_file_and_not_of_a_block(tmp_path: Path) -> None:
    path = tmp_path / "zeros"
    path.write_bytes(bytes(3 << 20))
    # head -c 3145728 /dev/zero | sha256sum
    assert sha256_of_file(path) == "bbd05cf6097ac9b1f89ea29d2542c1b7b67ee46848393895f5a9e43fa1f621e5"


@pytest.mark.parametrize("read", [sha256_of_file, block_sha256_of_file])
def test_a_read_that_fails_names_the_file(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = tmp_path / "unreadable"
    path.symlink_to(UNREADABLE)
    with pytest.raises(PassingError, match=f"^{path} cannot be read: Input/output error"):
        read(path)
