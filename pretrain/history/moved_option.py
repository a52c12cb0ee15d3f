"""The option of commands that read the data of a run where they lie now."""

import click

moved_option = click.option(
    "--moved",
    multiple=True,
    metavar="OLD=NEW",
    help="Look for shards and tokenizers whose paths begin with OLD where NEW is now; their hashes tell whether they are the same.",
)
