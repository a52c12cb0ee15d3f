"""What a shard says of its documents: domain, licence, language and source."""

from collections.abc import Mapping
from dataclasses import dataclass

from fanal.errors import UserError

SEVERAL_LANGUAGES = "mul"  # ISO 639-2 for "multiple languages"


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What is said of all documents on the command line; None leaves it to the documents."""

    domain: str | None = None
    licence: str | None = None
    language: str | None = None
    source: str | None = None
    """Where the documents come from, in words."""


@dataclass
class CommonLabel:
    """The one value that a field has in all documents."""

    name: str
    fixed: str | None = None
    """Said once for all documents; then none of them is asked."""
    value: str | None = None
    place: object = None

    def add(self, found: Mapping[str | None, object]) -> None:
        """Values with the place of their first document; a place may be dear to write out, so that waits for an error.

        Raises: UserError naming both places if a value differs from the first one; languages may differ.
        """
        for value, place in found.items():
            if self.place is None:
                self.value, self.place = value, place
            elif value != self.value and self.name == "language":
                self.value = SEVERAL_LANGUAGES
            elif value != self.value:
                raise UserError(
                    f"{place}: {self.name} is {value!r}, but {self.value!r} at {self.place}; a shard has one {self.name}, so "
                    f"that a mixture can name it: split the input by {self.name} and encode each part to its own prefix, or "
                    f"say --{self.name} NAME for all of it"
                )

    def result(self) -> str | None:
        return self.value if self.fixed is None else self.fixed
