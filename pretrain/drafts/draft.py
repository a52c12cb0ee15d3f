"""A draft of a document: sections of entries, each with its value and where that comes from, or left blank for the provider.

What a value holds of text from elsewhere (names of hosts, licences, folders) goes through ``as_text`` of
pretrain/convert/exporting/markdown.py, in which nothing is markup.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pretrain.convert.exporting.card_account import TO_BE_STATED


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing that a document asks for."""

    name: str
    """What it is called there."""
    value: str | None = None
    """Markdown of one or more lines; None is a blank."""
    where: tuple[str, ...] = ()
    """Where each figure of the value is found: paths as of ``follow`` in facts.py, such as "ledger data.tokens"."""
    how: str = ""
    """How the value follows from these, in words, where it does not stand there as it is here."""
    blank: str = ""
    """What the provider has to state: of a blank all that is asked, of a value what it lacks."""

    def __post_init__(self) -> None:
        if (self.value is None) != (not self.where):
            raise ValueError(f"{self.name}: a value says where it comes from, and a blank does not")
        if self.value is None and not self.blank:
            raise ValueError(f"{self.name}: a blank says what is asked")


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and what stands below it."""

    title: str
    entries: tuple[Entry, ...]
    note: str = ""
    """Markdown in front of the entries."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """All of a draft."""

    title: str
    follows: str
    """Edition of the form that it follows, and where that is published."""
    notes: tuple[str, ...]
    """Paragraphs of Markdown that stand in front: whom it binds, what it is not."""
    sections: tuple[Section, ...]

    def entries(self) -> Iterator[Entry]:
        """All entries, in order."""
        for section in self.sections:
            yield from section.entries


def markdown(document: Document) -> str:
    """Return a draft as Markdown."""
    return "\n\n".join(_paragraphs(document)) + "\n"


def provenance(where: Iterable[str], how: str = "") -> str:
    """Return the words that say where a value comes from, as Markdown."""
    return f"From: {', '.join(f'`{path}`' for path in where)}" + (f"; {how}" if how else "") + "."


def _paragraphs(document: Document) -> Iterator[str]:
    entries = list(document.entries())
    blanks = sum(bool(entry.blank) for entry in entries)
    yield f"# {document.title}"
    yield (
        f"**Draft**, filled from the ledger of a training run, and from nothing else. {blanks} of {len(entries)} entries hold the "
        f"words *{TO_BE_STATED}*: the run does not know it. It is not legal advice, and who publishes it answers for it."
    )
    yield f"Follows: {document.follows}"
    yield from document.notes
    for section in document.sections:
        yield f"## {section.title}"
        if section.note:
            yield section.note
        for entry in section.entries:
            yield from _of_entry(entry)


def _of_entry(entry: Entry) -> Iterator[str]:
    yield f"### {entry.name}"
    if entry.value is not None:
        yield entry.value
        yield provenance(entry.where, entry.how)
    if entry.blank:
        yield f"**[{TO_BE_STATED}]** {entry.blank}"
