"""The Model Documentation Form of the Code of Practice for General-Purpose AI Models, chapter Transparency."""

from pretrain.drafts.draft import Document, Entry, Section, markdown
from pretrain.drafts.facts import Facts

FOLLOWS = (
    "the Model Documentation Form of the Code of Practice for General-Purpose AI Models, chapter Transparency, in its edition of "
    "10 July 2025."
)


def render(facts: Facts) -> str:
    """Return the draft as Markdown."""
    return markdown(document_of(facts))


def document_of(facts: Facts) -> Document:
    """Fill the form."""
    return Document(title="Model documentation", follows=FOLLOWS, notes=(), sections=(_data(facts),))


def _data(facts: Facts) -> Section:
    tokens = Entry(
        name="Tokens that training read", value=f"{facts.at('ledger data.tokens'):,}", where=("ledger data.tokens",)
    )
    return Section(title="Data used for training", entries=(tokens,))
