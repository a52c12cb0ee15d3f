"""Labels of a shard's documents: domain, licence, language and source. Each is one line, and a language is a BCP 47 tag.

They go further than the shard: into logs, curves, tables and the model card of an export. Shards of earlier versions hold labels
of any kind; those are read, and shown as text.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from fanal.errors import UserError
from fanal.shown import ACTS, shown

SEVERAL_LANGUAGES = "mul"  # ISO 639-2 for "multiple languages"
MAX_LABEL_CHARACTERS = 1000
LANGUAGE_TAG = re.compile(
    r"""(?: (?: [a-z]{2,3} (?:-[a-z]{3}){0,3} | [a-z]{4} | [a-z]{5,8} )  # language, with what extends it
            (?:-[a-z]{4})?                                               # script
            (?:-(?:[a-z]{2}|[0-9]{3}))?                                  # region
            (?:-(?:[a-z0-9]{5,8}|[0-9][a-z0-9]{3}))*                     # variants
            (?:-[0-9a-wyz](?:-[a-z0-9]{2,8})+)*                          # extensions
            (?:-x(?:-[a-z0-9]{1,8})+)?
          | x(?:-[a-z0-9]{1,8})+ )                                       # private use""",
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)
"""A well-formed tag. Source: RFC 5646 (BCP 47), section 2.1, without the irregular tags of before 2005."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Labels given for all documents on the command line; None leaves a label to the documents."""

    domain: str | None = None
    licence: str | None = None
    language: str | None = None
    source: str | None = None
    """Origin of the documents, in words."""

    def __post_init__(self) -> None:
        """Raises: UserError naming the label, its value, the rule and what works."""
        for name, value in vars(self).items():
            if value is not None and (problem := label_problem(name, value)):
                raise UserError(f"--{name} {problem}")


def label_problem(name: str, value: str) -> str | None:
    """Return what is wrong with a label: its value, the rule and what works; None if nothing is."""
    if len(value) > MAX_LABEL_CHARACTERS or ACTS.search(value) or "\n" in value or "\t" in value:
        return (
            f"({shown(value)}) must be one line of at most {MAX_LABEL_CHARACTERS:,} characters, without tabs, other controls and "
            f"changes of the direction of writing; --{name} {'en' if name == 'language' else 'NAME'} works"
        )
    if name == "language" and not LANGUAGE_TAG.fullmatch(value):
        return (
            f"({shown(value)}) must be a language tag (BCP 47), such as fr, zh-Hant or fra-Latn; for all documents --language zxx "
            "works where they are program code or have no language, --language mul for several, and --language und for an unknown"
        )
    return None


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

        Raises: UserError naming both places if a value differs from the first one; languages may differ. The same for a value
        that no label may have.
        """
        for value, place in found.items():
            if value is not None and (problem := label_problem(self.name, value)):
                raise UserError(f"{place}: {self.name} {problem}")
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
