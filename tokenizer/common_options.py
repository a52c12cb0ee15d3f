"""Options and arguments that several commands have, each with its own words of help."""

from collections.abc import Callable
from typing import Any

import click

from fanal.command_group import complete_path

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def tokenizer_option(text: str = "Folder of a tokenizer, trained or imported.", *, required: bool = True) -> Decorator:
    """``--tokenizer DIR``, given as ``directory``."""
    return click.option(
        "--tokenizer", "directory", metavar="DIR", shell_complete=complete_path, required=required, help=text
    )


def prefixes_argument(metavar: str = "PREFIX...", name: str = "prefixes") -> Decorator:
    """One or more shards."""
    return click.argument(name, metavar=metavar, shell_complete=complete_path, nargs=-1, required=True)
