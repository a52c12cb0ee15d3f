"""The values of a Hugging Face ``config.json``, each checked when it is read. No torch, nothing executed."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fanal.errors import UserError
from fanal.shown import shown

LARGEST = sys.float_info.max
"""Largest number that is accepted: JSON allows larger integers, for which float() fails."""


class UnsupportedModelError(UserError):
    """Error: a Hugging Face folder holds a model that is not supported; the message names the difference."""


@dataclass(frozen=True)
class HfFields:
    """The fields that a config.json states, and its path."""

    path: Path
    content: dict[str, Any]

    def get(self, name: str, default: Any = None) -> Any:
        """Return a value; null counts as not stated."""
        value = self.content.get(name)
        return default if value is None else value

    def refuse(self, name: str, value: object, rule: str) -> UnsupportedModelError:
        """Return the error about a value, to be raised.

        Args: rule: what must hold of it; where it names nothing that works, the file as it was does.
        """
        works = "" if " work" in rule else "; the file as the model's makers wrote it works"
        return UnsupportedModelError(f"{name} ({shown(value, 120)}) of {self.path} {rule}{works}")

    def size(self, name: str, default: int | None = None) -> int:
        """Return an integer above 0 and below 2**31. Raises: UnsupportedModelError."""
        return self.integer(name, self.get(name, default))

    def integer(self, name: str, value: Any) -> int:
        """Return a value as an integer above 0 and below 2**31. Raises: UnsupportedModelError."""
        if type(value) is not int or not 0 < value < 2**31:
            raise self.refuse(name, value, "must be an integer above 0 and below 2**31")
        return value

    def number(self, name: str, value: Any) -> float:
        """Return a value as a number above 0. Raises: UnsupportedModelError."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LARGEST:
            raise self.refuse(name, value, "must be a number above 0")
        return float(value)

    def base(self, name: str, value: Any) -> float:
        """Return a value as the base of rotary frequencies, at least 1. Raises: UnsupportedModelError."""
        base = self.number(name, value)
        if base < 1:
            raise self.refuse(name, value, "must be at least 1: it is the base of rotary frequencies; 10000.0 works")
        return base
