"""Options of `encode` that say what it keeps of each document (tokenizer/shards/document_columns.py)."""

from collections.abc import Callable
from typing import Any

import click

from fanal.errors import UserError
from tokenizer.documents.column_fields import ColumnFields

FIELDS = {
    "id": "Field that holds the document's own name.",
    "url": "Field that holds the URL, of which the registrable domain is kept.",
    "date": "Field that holds the date.",
}


def column_options(command: Callable) -> Callable:
    """Add the options; licence and language have theirs already, as labels."""
    command = click.option(
        "--documents/--no-documents",
        default=True,
        show_default=True,
        help="Write PREFIX.documents.parquet: file, line, id, domain of the URL, licence, language and date of each document.",
    )(command)
    command = click.option(
        "--keep", metavar="FIELD", multiple=True, help="Keep this field there too; may be repeated."
    )(command)
    for name, text in FIELDS.items():
        command = click.option(f"--{name}-field", default=name, show_default=True, help=text)(command)
    return command


def column_fields(options: dict[str, Any]) -> ColumnFields | None:
    """Return the fields that the columns are taken from; None for a shard without columns. Raises: UserError."""
    names = (*FIELDS, "licence", "language")
    columns = ColumnFields(**{name: options[f"{name}_field"] for name in names}, keep=options["keep"])
    if not options["documents"] and options["keep"]:
        raise UserError(
            f"--keep {options['keep'][0]} asks for the columns that --no-documents leaves out; leave out one of the two"
        )
    return columns if options["documents"] else None
