"""The drafts that can be written: one file of code each."""

from collections.abc import Callable
from dataclasses import dataclass

from pretrain.drafts import model_documentation
from pretrain.drafts.facts import Facts


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A document that is written as one file."""

    name: str
    """Word that --only takes."""
    file_name: str
    title: str
    render: Callable[[Facts], str]
    """Makes the whole text of the file."""


DRAFTS = (
    Draft(
        name="model-documentation",
        file_name="model-documentation.md",
        title="Model Documentation Form of the EU's Code of Practice",
        render=model_documentation.render,
    ),
)
"""All of them, in the order in which they are written."""
