"""A short, fixed part of the fuzz of wrong inputs, and the faults that it must find."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fuzz import inputs
from tests.fuzz.input_cases import KINDS, make_case, make_good
from tests.fuzz.inputs import Outcome, run_all, run_case

SHORT = (*range(3 * len(KINDS)), 142)
"""A few of each kind, and one that had a traceback once."""


def test_wrong_inputs_are_refused_in_words_in_time_and_leave_nothing() -> None:
    said: list[str] = []
    outcomes = run_all(SHORT, said.append)
    assert not said
    assert {outcome.case.kind for outcome in outcomes} == set(KINDS)
    assert {outcome.code for outcome in outcomes} >= {0, 2, 76}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "good"
    make_good(folder)
    return folder


def test_a_case_is_the_same_whenever_it_is_made(good: Path, tmp_path: Path) -> None:
    first, again = tmp_path / "a", tmp_path / "b"
    for number in SHORT:
        case, same = make_case(number, good, first / str(number)), make_case(number, good, again / str(number))
        assert (same.what, [word.replace(str(again), str(first)) for word in same.words]) == (case.what, case.words)


def _crash(_: list[str]) -> int:
    print('Traceback (most recent call last):\n  File "x.py", line 1\nValueError: planted', file=sys.stderr)
    return 70


def _hang(_: list[str]) -> int:
    while True:
        pass


def _leave(words: list[str]) -> int:
    Path(words[words.index("--output") + 1]).write_text("half")
    print("error: planted", file=sys.stderr)
    return 2


def _fill(_: list[str]) -> int:
    return len(bytearray(b"x") * (inputs.PEAK_BYTES * 3 // 2)) * 0


def _two_lines(_: list[str]) -> int:
    print("error: planted\nand more", file=sys.stderr)
    return 2


@pytest.mark.parametrize(
    ("planted", "fault"),
    [
        (_crash, "a traceback"), (_hang, "not done in 1 s"), (_leave, "a failure left"), (_fill, "a peak of"),
        (_two_lines, "an error of several lines"), (lambda _: 3, "exit code 3"), (lambda _: 2, "no line that says error"),
    ],
)  # fmt: skip
def test_a_planted_fault_is_found(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted, fault: str
) -> None:
    monkeypatch.setattr(inputs, "tokenizer_main", planted)
    monkeypatch.setattr(inputs, "LIMIT_S", 1.0 if planted is _hang else inputs.LIMIT_S)
    outcome = run_case(11, good, tmp_path / "case")
    assert (outcome.fault() or "").startswith(fault)


def test_a_sound_outcome_has_no_fault(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "tokenizer_main", lambda _: 0)
    outcome: Outcome = run_case(11, good, tmp_path / "case")
    assert outcome.fault() is None and replace(outcome, code=None).fault() is not None
