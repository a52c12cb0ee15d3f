"""Which checkpoints are deleted: old ones, and never the newest that is whole."""

from pathlib import Path

import pytest

from pretrain.checkpoint.paths import COMPLETE, part_name, step_name
from pretrain.checkpoint.save import _drop_old


def make(folder: Path, *names: str, whole: bool = True) -> None:
    for name in names:
        (folder / name).mkdir()
        (folder / name / "weights").touch()
        if whole:
            (folder / name / COMPLETE).touch()


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("keep_last", "kept"), [(None, [1, 2, 3]), (1, [3]), (2, [2, 3]), (3, [1, 2, 3]), (9, [1, 2, 3])]
)
def test_the_newest_are_kept(tmp_path: Path, keep_last: int | None, kept: list[int]) -> None:
    make(tmp_path, *map(step_name, (1, 2, 3)))
    _drop_old(tmp_path, keep_last)
    assert left(tmp_path) == [step_name(step) for step in kept]


def test_a_folder_without_its_marker_does_not_take_a_whole_one_s_place(tmp_path: Path) -> None:
    make(tmp_path, step_name(20), whole=False)
    make(tmp_path, step_name(10), step_name(15))
    _drop_old(tmp_path, 1)
    assert left(tmp_path) == [step_name(15), step_name(20)]


def test_what_an_interrupted_deletion_left_is_deleted(tmp_path: Path) -> None:
    make(tmp_path, step_name(5), whole=False)
    make(tmp_path, step_name(10))
    _drop_old(tmp_path, 1)
    assert left(tmp_path) == [step_name(10)]


def test_what_is_no_checkpoint_is_left_alone(tmp_path: Path) -> None:
    make(tmp_path, "notes", part_name(2), step_name(1), step_name(3))
    _drop_old(tmp_path, 1)
    assert left(tmp_path) == sorted(["notes", step_name(3), part_name(2)])
