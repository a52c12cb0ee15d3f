"""What a rank does in one step is what it did: waits, copies, collectives and their bytes exactly, memory within 3 %."""

from typing import Any

import pytest

from tests.golden import rehearsals

WHICH = list(rehearsals.SETS)
MEMORY = 0.03
MEANT = "if the change is meant: python -m tests.golden.rehearsals, and read the difference"


@pytest.fixture(scope="module", params=WHICH)
def both(request: pytest.FixtureRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is counted now and what the golden file says, by case."""
    return rehearsals.count(request.param), rehearsals.json.loads(rehearsals.golden_path(request.param).read_text())


@pytest.mark.parametrize("what", ["collectives", "waits", "copies", "flops"])
def test_a_step_does_what_it_did(both: tuple[dict[str, Any], dict[str, Any]], what: str) -> None:
    now, golden = ({case: found[what] for case, found in side.items()} for side in both)
    differ = {
        case: (golden.get(case), now.get(case))
        for case in golden.keys() | now.keys()
        if golden.get(case) != now.get(case)
    }
    assert not differ, f"{MEANT}:\n{differ}"


def test_a_step_takes_the_memory_that_it_took(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    now, golden = both
    assert now.keys() == golden.keys(), MEANT
    differ = {
        (case, when): (size, now[case]["memory"][when])
        for case, found in golden.items()
        for when, size in found["memory"].items()
        if abs(now[case]["memory"][when] - size) > MEMORY * size
    }
    assert not differ, f"{MEANT}:\n{differ}"


def test_every_shipped_config_is_counted() -> None:
    assert rehearsals.SHIPPED_RANKS.keys() == rehearsals.shipped_runs().keys()


@pytest.mark.parametrize(("name", "other"), rehearsals.ALIKE.items())
def test_a_config_that_is_not_counted_differs_from_its_like_in_nothing_that_a_step_reads(name: str, other: str) -> None:
    runs = rehearsals.shipped_runs()
    assert runs[name] != runs[other]
    assert rehearsals.what_a_step_reads(runs[name]) == rehearsals.what_a_step_reads(runs[other])
    assert rehearsals.SHIPPED_RANKS[name] == rehearsals.SHIPPED_RANKS[other] and other not in rehearsals.ALIKE
