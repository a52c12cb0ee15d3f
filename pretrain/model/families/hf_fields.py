"""The values of a Hugging Face ``config.json``, each checked as it is taken. No torch, nothing executed."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fanal.errors import UserError

LARGEST = sys.float_info.max
"""JSON has larger integers, of which float() makes an error."""


class UnsupportedModelError(UserError):
    """A Hugging Face folder that is none of the models we have; the message names what is different."""


@dataclass(frozen=True)
class HfFields:
    """What is stated, and where."""

    path: Path
    content: dict[str, Any]

    def get(self, name: str, default: Any = None) -> Any:
        """A value; null counts as not stated."""
        value = self.content.get(name)
        return default if value is None else value

    def refuse(self, name: str, value: object, rule: str) -> UnsupportedModelError:
        """The error about a value, to be raised."""
        shown = repr(value)
        return UnsupportedModelError(
            f"{name} ({shown if len(shown) <= 120 else shown[:117] + '...'}) of {self.path} {rule}"
        )

    def size(self, name: str, default: int | None = None) -> int:
        """An integer above 0. Raises: UnsupportedModelError."""
        value = self.get(name, default)
        if type(value) is not int or not 0 < value < 2**31:
            raise self.refuse(name, value, "must be stated, as an integer above 0")
        return value

    def number(self, name: str, value: Any) -> float:
        """A value as a number above 0. Raises: UnsupportedModelError."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LARGEST:
            raise self.refuse(name, value, "must be stated, as a number above 0")
        return float(value)
