"""Bugs of the kinds that Python and its libraries raise by themselves, each in a function of its own so that a traceback names it.

A function's last line is the bug.
"""

import errno
import inspect
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def tuple_unpacking() -> None:
    _, _ = [1.0]


def zip_of_unequal_lengths() -> None:
    list(zip([1, 2], [1], strict=True))


def int_of_a_word() -> None:
    int("x")


def max_of_nothing() -> None:
    max([])


def index_of_what_is_absent() -> None:
    [1, 2].index(3)


def reshape_to_another_size() -> None:
    np.zeros(6).reshape(4, 2)


def ragged_tensor() -> None:
    torch.tensor([[1.0, 2.0], [3.0]])


def half_a_json() -> None:
    json.loads("{")


def key_that_is_absent() -> None:
    dict[str, int]()["absent"]


def broken_invariant() -> None:
    assert len("a") == 2, "the invariant of this test"


def path_that_no_user_gave() -> None:
    raise PermissionError(errno.EACCES, "Permission denied", "/dev/shm/of_a_library")


BUGS: dict[str, Callable[[], None]] = {
    bug.__name__: bug
    for bug in (
        tuple_unpacking, zip_of_unequal_lengths, int_of_a_word, max_of_nothing, index_of_what_is_absent, reshape_to_another_size,
        ragged_tensor, half_a_json, key_that_is_absent, broken_invariant, path_that_no_user_gave,
    )
}  # fmt: skip


def line_of(name: str) -> str:
    """The planted line, as a traceback quotes it."""
    return inspect.getsource(BUGS[name]).strip().splitlines()[-1].strip()


def planted(name: str) -> Callable[..., Any]:
    """Takes the place of any function."""

    def stand_in(*_: object, **__: object) -> None:
        BUGS[name]()

    return stand_in


def meet(name: str) -> int:
    """A local rank's work."""
    BUGS[name]()
    return 0
