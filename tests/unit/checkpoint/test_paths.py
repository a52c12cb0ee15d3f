"""Which folder is a checkpoint."""

from pathlib import Path

from pretrain.checkpoint.load import newest_checkpoint
from pretrain.checkpoint.paths import COMPLETE, checkpoints_dir, part_name, step_name, step_of


def test_names_and_steps_go_both_ways() -> None:
    assert step_name(1000) == "step-00001000"
    assert step_of(step_name(753_851)) == 753_851 and step_of(step_name(10**9)) == 10**9
    assert step_of(part_name(5)) is None and step_of("step-5") is None and step_of("latest") is None


def test_the_newest_whole_checkpoint_is_found_by_number(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    folder = checkpoints_dir(tmp_path)
    for name, whole in (
        (step_name(9), True),
        (step_name(10), True),
        (step_name(11), False),
        (part_name(12), True),
        ("junk", True),
    ):
        (folder / name).mkdir(parents=True)
        if whole:
            (folder / name / COMPLETE).touch()
    newest = newest_checkpoint(tmp_path)
    assert newest is not None and newest.name == step_name(10)
