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
    title: str
    render: Callable[[Facts], str]
    """Makes the whole text of the file."""


DRAFTS = (
    Draft(
        name="eu-public-summary",
        file_name="eu-public-summary.md",
        title="Public summary of training content, by the template of the EU",
        render=eu_public_summary.render,
    ),
    Draft(
        name="eu-public-summary-domains",
        file_name=eu_public_summary_domains.FILE_NAME,
        title="Top 10 % of domain names by size, which that summary refers to",
        render=eu_public_summary_domains.render,
    ),
    Draft(
        name="model-documentation",
        file_name="model-documentation.md",
        title="Model Documentation Form of the EU's Code of Practice",
        render=model_documentation.render,
    ),
    Draft(
        name="annex-xi",
        file_name="annex-xi.md",
        title="Technical documentation by Annex XI of the AI Act",
        render=annex_xi.render,
    ),
    Draft(
        name="data-statement",
        file_name="data-statement.md",
        title="Data statement, schema version 3",
        render=data_statement.render,
    ),
    Draft(
        name="croissant",
        file_name="croissant.json",
        title="Croissant file of the shards and their columns",
        render=croissant.render,
    ),
    Draft(name="citation", file_name="CITATION.cff", title="Citation file of the model", render=citation.render),
)
"""All of them, in the order in which they are written."""
