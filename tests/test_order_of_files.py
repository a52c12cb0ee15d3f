"""The workers of a test session begin with the longest files."""

from pathlib import Path
from types import SimpleNamespace

from tests.order_of_files import LONGEST, longest_files_first

ROOT = Path(__file__).parents[1]


def test_every_file_that_is_named_is_there_and_named_once() -> None:
    assert [name for name in LONGEST if not (ROOT / name).is_file()] == []
    assert len(set(LONGEST)) == len(LONGEST)


def test_long_files_come_first_then_large_ones_and_no_test_moves_in_its_file() -> None:
    given = [
        "small.py::b",
        "large.py::2",
        "small.py::a",
        "large.py::1",
        "large.py::3",
        f"{LONGEST[1]}::x",
        f"{LONGEST[0]}::y",
    ]
    found = [item.nodeid for item in longest_files_first([SimpleNamespace(nodeid=name) for name in given])]
    assert found == [
        f"{LONGEST[0]}::y", f"{LONGEST[1]}::x", "large.py::2", "large.py::1", "large.py::3", "small.py::b", "small.py::a",
    ]  # fmt: skip
