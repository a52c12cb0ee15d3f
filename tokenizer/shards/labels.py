"""Labels of a shard's documents: domain, licence, language and source."""

from collections.abc import Mapping
from dataclasses import dataclass

from fanal.errors import UserError

SEVERAL_LANGUAGES = "mul"  # ISO 639-2 for "multiple languages"


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Labels given for all documents on the command line; None leaves a label to the documents."""

    domain: str | None = None
    licence: str | None = None
    language: str | None = None
    source: str | None = None
    """Origin of the documents, in words."""


def in_words(value: str | None) -> str:
    """Return a label for a message."""
    return "not given" if value is None else repr(value)


@dataclass
class CommonLabel:
    """The one value that a field has in all documents."""

    name: str
    fixed: str | None = None
    """Value given for all documents; the documents' own values are then not looked at."""
    value: str | None = None
    place: object = None

    def add(self, found: Mapping[str | None, object]) -> None:
        """Add values with the place of their first document; a place may be expensive to write out, so that waits for an error.

        Raises: UserError naming both places if a value differs from the first one; languages may differ.
        """
        for value, place in found.items():
            if self.place is None:
                self.value, self.place = value, place
            elif value != self.value and self.name == "language":
                self.value = SEVERAL_LANGUAGES
            elif value != self.value:
                raise UserError(
                    f"{place}: {self.name} is {in_words(value)}, but {in_words(self.value)} at {self.place}; a shard has one "
                    f"{self.name}, so that a mixture can name it: split the input by {self.name} and encode each part to its own "
                    f"prefix, or say --{self.name} NAME for all of it"
                )

    def result(self) -> str | None:
        return self.value if self.fixed is None else self.fixed
