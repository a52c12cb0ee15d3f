"""The drafts that can be written: one file of code each."""

from collections.abc import Callable
from dataclasses import dataclass

from pretrain.drafts import (
    annex_xi,
    citation,
    croissant,
    data_statement,
    eu_public_summary,
    eu_public_summary_domains,
    model_documentation,
)
from pretrain.drafts.facts import Facts


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A document that is written as one file."""

    name: str
    """Word that --only takes."""
    file_name: str
    render: Callable[[Facts], str]
    """Makes the whole text of the file."""


DRAFTS = (
    Draft(
        name="eu-public-summary",
        file_name="eu-public-summary.md",
        render=eu_public_summary.render,
    ),
    Draft(
        name="eu-public-summary-domains",
        file_name=eu_public_summary_domains.FILE_NAME,
        render=eu_public_summary_domains.render,
    ),
    Draft(
        name="model-documentation",
        file_name="model-documentation.md",
        render=model_documentation.render,
    ),
    Draft(
        name="annex-xi",
        file_name="annex-xi.md",
        render=annex_xi.render,
    ),
    Draft(
        name="data-statement",
        file_name="data-statement.md",
        render=data_statement.render,
    ),
    Draft(
        name="croissant",
        file_name="croissant.json",
        render=croissant.render,
    ),
    Draft(name="citation", file_name="CITATION.cff", render=citation.render),
)
"""All of them, in the order in which they are written."""
