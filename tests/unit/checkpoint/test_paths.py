"""Which folder is a checkpoint, by its name."""

import pytest

from fanal.run_folder import bad_name, is_bad, is_part, part_name, step_name, step_of


def test_names_and_steps_go_both_ways() -> None:
    assert step_name(1000) == "step-00001000"
    assert step_of(step_name(753_851)) == 753_851 and step_of(step_name(10**9)) == 10**9


@pytest.mark.parametrize(
    "name", [part_name(5), bad_name(5, 0), "step-5", "latest", "step-000000005", "step-0000000٥", "step-00000005\n"]
)
def test_any_other_name_is_no_checkpoint_s(name: str) -> None:
    assert step_of(name) is None


def test_parts_and_bad_ones_are_told_by_their_names() -> None:
    assert bad_name(5, 0) == "step-00000005.bad" and bad_name(5, 1) == "step-00000005.bad-2"
    assert is_part(part_name(5)) and not is_part("notes.part") and not is_part(step_name(5))
    assert is_bad(bad_name(5, 0)) and is_bad(bad_name(5, 3))
    assert not is_bad(bad_name(5, 0) + ".REASON") and not is_bad("step-5.bad") and not is_bad(part_name(5))
