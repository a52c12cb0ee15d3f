"""Which checkpoints are deleted: old ones, and never the newest that is whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fanal.run_folder import COMPLETE, bad_name, part_name, step_name
from pretrain.checkpoint.disk.retention import Keep, bad_in, checkpoints_in, drop_old, remove_leftovers, set_aside


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
    drop_old(tmp_path, Keep(last=keep_last, every_steps=None))
    assert left(tmp_path) == [step_name(step) for step in kept]


def test_a_folder_without_its_marker_does_not_take_a_whole_one_s_place(tmp_path: Path) -> None:
    make(tmp_path, step_name(20), whole=False)
    make(tmp_path, step_name(10), step_name(15))
    drop_old(tmp_path, Keep(last=1, every_steps=None))
    assert left(tmp_path) == [step_name(15), step_name(20)]


def test_what_an_interrupted_deletion_left_is_deleted(tmp_path: Path) -> None:
    make(tmp_path, step_name(5), whole=False)
    make(tmp_path, step_name(10))
    drop_old(tmp_path, Keep(last=1, every_steps=None))
    assert left(tmp_path) == [step_name(10)]


def test_what_is_no_checkpoint_is_left_alone(tmp_path: Path) -> None:
    make(tmp_path, "notes", part_name(2), step_name(1), step_name(3))
    drop_old(tmp_path, Keep(last=1, every_steps=None))
    assert left(tmp_path) == sorted(["notes", step_name(3), part_name(2)])


def test_a_half_deleted_checkpoint_no_longer_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, *map(step_name, (1, 2)))

    def power_cut(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pretrain.checkpoint.disk.retention.shutil.rmtree", power_cut)
        with pytest.raises(KeyboardInterrupt):
            drop_old(tmp_path, Keep(last=1, every_steps=None))
    assert left(tmp_path) == [part_name(1), step_name(2)]
    remove_leftovers(tmp_path)
    assert left(tmp_path) == [step_name(2)]


def test_leftovers_go_and_nothing_else_does(tmp_path: Path) -> None:
    kept = ["notes", "notes.part", "step-1.part", step_name(3), bad_name(4, 0), bad_name(4, 0) + ".REASON"]
    make(tmp_path, part_name(2), part_name(9), *kept)
    remove_leftovers(tmp_path)
    assert left(tmp_path) == sorted(kept)
    remove_leftovers(tmp_path / "a run that has saved nothing")


def test_a_damaged_one_is_set_aside_as_it_was_with_the_reason_beside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for count, name in enumerate(("step-00000007.bad", "step-00000007.bad-2", "step-00000007.bad-3")):
        make(tmp_path, step_name(7))
        aside = set_aside(tmp_path / step_name(7), [f"problem {count}", "file \udcff is too many"])
        assert aside == tmp_path / name and (aside / "weights").is_file()
        assert (tmp_path / f"{name}.REASON").read_text() == f"problem {count}\nfile \\udcff is too many\n"
        assert f"DAMAGED CHECKPOINT {tmp_path / step_name(7)}" in caplog.text and f"problem {count}" in caplog.text
    assert not checkpoints_in(tmp_path) and len(bad_in(tmp_path)) == 3


def test_checkpoints_are_found_by_name_newest_first(tmp_path: Path) -> None:
    assert checkpoints_in(tmp_path / "nowhere") == [] == bad_in(tmp_path / "nowhere")
    make(tmp_path, step_name(9), step_name(10), part_name(12), bad_name(11, 0), "junk", "step-000000013")
    (tmp_path / step_name(14)).touch()
    assert [path.name for path in checkpoints_in(tmp_path)] == [step_name(10), step_name(9)]


def test_a_linked_checkpoint_is_dropped_and_what_it_points_to_is_not(tmp_path: Path) -> None:
    make(tmp_path, "elsewhere", step_name(2))
    (tmp_path / step_name(1)).symlink_to(tmp_path / "elsewhere")
    drop_old(tmp_path, Keep(last=1, every_steps=None))
    assert left(tmp_path) == ["elsewhere", step_name(2)] and left(tmp_path / "elsewhere") == [COMPLETE, "weights"]


@pytest.mark.parametrize(
    ("last", "every_steps", "kept"),
    [(1, 10, [10, 20, 25]), (2, 10, [10, 20, 25]), (3, 20, [15, 20, 25]), (1, 5, [5, 10, 15, 20, 25]), (None, 10, [5, 10, 15, 20, 25])],
)  # fmt: skip
def test_some_steps_are_kept_for_ever(tmp_path: Path, last: int | None, every_steps: int, kept: list[int]) -> None:
    make(tmp_path, *map(step_name, (5, 10, 15, 20, 25)))
    drop_old(tmp_path, Keep(last=last, every_steps=every_steps))
    assert left(tmp_path) == [step_name(step) for step in kept]


def test_what_is_not_whole_is_not_kept_for_ever(tmp_path: Path) -> None:
    make(tmp_path, step_name(10), whole=False)
    make(tmp_path, step_name(20), step_name(30), step_name(35))
    drop_old(tmp_path, Keep(last=1, every_steps=10))
    assert left(tmp_path) == [step_name(20), step_name(30), step_name(35)]


NOBODY = 65534
AS_NOBODY = """
import os, sys
from pathlib import Path
from pretrain.checkpoint.disk.retention import Keep, drop_old, remove_leftovers
os.setuid(int(sys.argv[2]))
if sys.argv[3] == "leftovers":
    remove_leftovers(Path(sys.argv[1]))
else:
    drop_old(Path(sys.argv[1]), Keep(last=1, every_steps=None))
"""


def as_nobody(folder: Path, what: str) -> subprocess.CompletedProcess[str]:
    """Root may do everything, so a user who may not acts here."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, NOBODY, NOBODY)
    return subprocess.run(
        [sys.executable, "-c", AS_NOBODY, ".", str(NOBODY), what], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip


def test_a_protected_checkpoint_stays_whole_and_keeps_no_other_from_its_end(tmp_path: Path) -> None:
    make(tmp_path, *map(step_name, (1, 2, 3, 4)))
    (tmp_path / step_name(3)).chmod(0o555)
    found = as_nobody(tmp_path, "old")
    assert left(tmp_path) == [step_name(3), step_name(4)] and left(tmp_path / step_name(3)) == [COMPLETE, "weights"]
    assert found.stderr.endswith(f"PermissionError: [Errno 13] Permission denied: '{step_name(3)}'\n")


def test_a_leftover_that_cannot_be_removed_is_named_and_in_nobody_s_way(tmp_path: Path) -> None:
    make(tmp_path, *map(part_name, (1, 2, 3)))
    (tmp_path / part_name(2)).chmod(0o555)
    found = as_nobody(tmp_path, "leftovers")
    assert found.returncode == 0, found.stderr
    assert left(tmp_path) == [part_name(2)]
    assert f"{part_name(2)} cannot be removed (Permission denied)\n" in found.stderr
