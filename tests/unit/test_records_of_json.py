"""Dataclasses are built from parsed JSON with every key known, present and of its type, at any depth."""

from dataclasses import dataclass
from typing import Any

import pytest

from fanal.records import MisfitError, record_of


@dataclass(frozen=True, kw_only=True)
class Inner:
    share: float
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outer:
    count: int
    label: str | None
    inner: Inner | None
    items: tuple[Inner, ...]
    rest: dict[str, Any] | None = None


WHOLE = {
    "count": 3,
    "label": None,
    "inner": {"share": 0.5},
    "items": [{"share": 1, "names": ["a"]}],
    "rest": {"a": [1]},
}


def test_a_record_is_built_at_any_depth() -> None:
    items = (Inner(share=1, names=("a",)),)
    assert record_of(Outer, WHOLE) == Outer(count=3, label=None, inner=Inner(share=0.5), items=items, rest={"a": [1]})
    assert record_of(Outer, WHOLE | {"inner": None, "rest": None}).inner is None


@pytest.mark.parametrize(
    ("change", "misfit"),
    [
        ({"count": True}, "^count holds true, expected an integer$"),
        ({"count": 3.0}, "^count holds 3.0, expected an integer$"),
        ({"label": 3}, "^label holds 3, expected a string or null$"),
        ({"inner": []}, r"^inner holds \[\], expected an object$"),
        ({"inner": {"share": "1"}}, '^inner.share holds "1", expected a number$'),
        ({"items": {}}, r"^items holds \{\}, expected an array$"),
        ({"items": [{"share": 1}, {"share": True}]}, "^items.1.share holds true, expected a number$"),
        ({"items": [{}]}, "^key items.0.'share' is missing$"),
        ({"rest": [1]}, r"^rest holds \[1\], expected an object$"),
        ({"more": 1}, "^unknown key 'more', expected count, label, inner, items, rest$"),
    ],
)
def test_the_first_misfit_is_named_with_its_place(change: dict[str, Any], misfit: str) -> None:
    with pytest.raises(MisfitError, match=misfit):
        record_of(Outer, WHOLE | change)


def test_what_is_not_an_object_is_a_misfit() -> None:
    with pytest.raises(MisfitError, match=r"^the file holds \[\], expected an object$"):
        record_of(Outer, [])
