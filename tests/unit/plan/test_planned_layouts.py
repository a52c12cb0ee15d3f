"""The shipped configs whose layouts the planner chose still have its fastest, and repeat what it prints."""

from dataclasses import replace

import pytest

from bench.planned_layouts import PLANNED, Planned, comment_of, plan_of, stated
from pretrain.plan.reasons import reasons
from pretrain.plan.search import layout_name
from pretrain.plan.table import Plan, lines

MUCH = 1.03
"""How much faster a layout that the file does not have may be."""


@pytest.fixture(scope="module", params=PLANNED, ids=lambda one: one.path.stem)
def made(request: pytest.FixtureRequest) -> tuple[Planned, Plan]:
    return request.param, plan_of(request.param)


def behind(made: Plan) -> float:
    """How many times as fast the best layout is that the planner knows of, with any ramp of the batch, beside the file's own."""
    assert made.own is not None
    others = [made.best[0], *([made.found.held_back] if made.found.held_back else [])]
    return made.own.step_s / min(one.step_s for one in others)


def test_the_layout_of_the_file_is_the_planner_s_fastest(made: tuple[Planned, Plan]) -> None:
    planned, plan = made
    assert behind(plan) < MUCH, f"a faster layout: {planned.command}"
    best, own = plan.best[0], plan.own
    assert own is not None and own.times == best.times and own.stages == best.stages, "write the keys of layout 1"
    assert layout_name(own.run, own.num_gpus) == layout_name(best.run, best.num_gpus)


def test_the_comments_are_what_the_planner_prints(made: tuple[Planned, Plan]) -> None:
    planned, plan = made
    said = stated(planned.path.read_text())
    assert said == comment_of(planned, plan), "python -m bench.planned_layouts"
    assert {one.choices for one in reasons(plan.found)} and "why layout 1: " in "\n".join(lines(plan))


def test_a_slower_layout_is_noticed(made: tuple[Planned, Plan]) -> None:
    _, plan = made
    assert behind(replace(plan, own=max(plan.found.fitting[:500], key=lambda one: one.step_s))) > MUCH


def test_reasons_name_each_other_choice_once_and_their_parts_add_up(made: tuple[Planned, Plan]) -> None:
    found = made[1].found
    known = reasons(found)
    named = [choice for one in known for choice in one.choices]
    assert len(named) == len(set(named)) and {"tensor parallelism", "micro batch", "recomputation"} <= {*named}
    assert [one.more_s for one in known] == sorted(one.more_s for one in known)
    assert all(sum(one.parts.values()) == pytest.approx(one.more_s) and one.more_s >= 0 for one in known)
