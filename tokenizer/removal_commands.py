"""Commands about documents that should not be trained on: what overlaps with held-out text, and a shard without it."""

from pathlib import Path

import click

from fanal.command_group import complete_path
from tokenizer.shards import exclude as exclude_module
from tokenizer.shards.manifest import prefix_of


@click.command()
@click.argument("prefix", metavar="PREFIX", shell_complete=complete_path)
@click.option(
    "--documents",
    metavar="LIST",
    shell_complete=complete_path,
    multiple=True,
    help="File of document numbers, one a line, or what check-overlap --documents-out wrote; may be given again.",
)
@click.option("--reason", metavar="TEXT", required=True, help="Why they leave, one line; the manifest keeps it.")
@click.option(
    "--output",
    metavar="PREFIX2",
    shell_complete=complete_path,
    required=True,
    help="Writes PREFIX2.bin, .idx, .json and PREFIX2.excluded.json, the list of what left.",
)
def exclude(prefix: str, documents: tuple[str, ...], reason: str, output: str) -> None:
    """Write a shard without some documents, and a note of what left and why.

    PREFIX stays as it is. The documents that stay keep their order and their tokens: the bytes are those of an encoding of them. A
    run goes on with the new shard from the next entry of data.phases.
    """
    selection = exclude_module.Selection(lists=[Path(path) for path in documents])
    manifest = exclude_module.exclude(prefix_of(prefix), output, selection, reason=reason)
    gone = manifest.exclusions[-1]
    click.echo(f"{output}: {manifest.num_documents:,} documents, {manifest.num_tokens:,} tokens of {manifest.dtype}")
    click.echo(f"{output}: without {gone.num_documents:,} documents, {gone.num_tokens:,} tokens of {prefix}")
