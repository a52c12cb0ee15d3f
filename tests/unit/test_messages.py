"""Messages: an error as the reason in brackets, the kind of a value, and what cannot be written."""

import errno
from pathlib import Path

import pytest

from fanal.errors import DamageError, UserError
from fanal.files import writing
from fanal.reason import reason
from fanal.records import MisfitError
from fanal.shown import kind_of


@pytest.mark.parametrize("error_type", [UserError, DamageError, MisfitError])
def test_our_own_error_is_a_reason_without_its_class(error_type: type[Exception]) -> None:
    assert reason(error_type("its tensors end at byte 9")) == "its tensors end at byte 9"


def test_an_error_of_a_library_is_a_reason_with_its_class_and_its_first_line() -> None:
    assert reason(KeyError("shape")) == "KeyError: 'shape'"
    assert reason(ValueError("no value\n    full_key: model")) == "ValueError: no value"


@pytest.mark.parametrize(
    ("value", "kind"),
    [(None, "null"), (True, "a boolean"), (3, "an integer"), ([], "an array"), ({}, "an object"), (b"", "a bytes"), (1j, "a complex")],
)  # fmt: skip
def test_a_kind_of_value_has_its_article(value: object, kind: str) -> None:
    assert kind_of(value) == kind


@pytest.mark.parametrize(("note", "end"), [("", "run again"), ("a.json is whole", "run again (a.json is whole)")])
def test_a_file_that_cannot_be_written_is_said_with_the_note_of_its_writer_alone(note: str, end: str) -> None:
    with pytest.raises(UserError) as caught, writing(Path("a"), note=note):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(caught.value) == f"a cannot be written: No space left on device; fix that and {end}"
