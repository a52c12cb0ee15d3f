"""The first wrong configs of the fuzz, in this process: each is refused in one line, or is a config (docs/fuzz.md)."""

import re
from pathlib import Path

import pytest

from tests.fuzz import configs
from tests.fuzz.config_cases import KEYS, KINDS, Case, text_of, wrong_config
from tests.fuzz.configs import BASE, Result, run_cases, try_here

SEED = 1
KEPT = (
    335, 398, 435, 544, 550, 555, 574, 576, 620, 632, 685, 722, 809, 1126, 1155, 1194, 1270, 1362, 1437, 1473, 1474, 1475, 1561, 1577,
    1755, 1803, 1831, 1834, 1837, 1844, 1902, 1909, 1920,
)  # fmt: skip
"""Cases that had a traceback, or no end, when they were first tried (2026-11-29)."""


@pytest.mark.parametrize("first", range(0, 150, 50))
def test_wrong_configs_are_refused_in_one_line_or_are_configs(first: int) -> None:
    counts, problems = run_cases(SEED, range(first, first + 50), every_command=None)
    assert not problems, "\n".join(problems)
    assert sum(counts.values()) == 50


def test_what_once_had_a_traceback_or_no_end_is_refused_in_one_line() -> None:
    counts, problems = run_cases(SEED, KEPT, every_command=None)
    assert not problems, "\n".join(problems)
    assert sum(counts.values()) == len(KEPT)


def test_every_kind_and_every_key_has_its_turn() -> None:
    cases = [wrong_config(SEED, number) for number in range(2_000)]
    assert {case.kind for case in cases} == set(KINDS)
    tried = {override.partition("=")[0] for case in cases for override in case.overrides}
    assert set(KEYS) <= tried and len(KEYS) > 80
    assert cases[7] == wrong_config(SEED, 7) != wrong_config(SEED + 1, 7)


def test_what_the_cases_are_made_of_is_a_config(tmp_path: Path) -> None:
    assert try_here(Case(number=0, kind="", content=text_of(BASE)), tmp_path) == Result(outcome=configs.TAKEN)


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("raise KeyError('planted')", "KeyError: 'planted'"),
        ("while True: pass", "no end after 0.2 s of a core"),
        ("Path('left').touch(); raise UserError('a line')", r"it left \['left'\]"),
        ("raise UserError('a' * 5000)", "a message of 5,000 characters"),
    ],
)
def test_a_planted_fault_is_found(fault: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(*_: object) -> None:
        exec(fault, vars(configs))

    monkeypatch.setattr(configs, "load_run", faulty)
    monkeypatch.setattr(configs, "CPU_LIMIT_S", 0.2)
    monkeypatch.chdir(tmp_path)
    found = try_here(Case(number=0, kind="", content=text_of(BASE)), tmp_path)
    assert found.problem is not None
    assert re.search(problem, found.problem), found
