"""The commands that search token shards for text: ``index`` and ``search``."""

import json
from dataclasses import asdict
from itertools import islice

import click

from fanal.progress import Progress
from fanal.shown import on_one_line
from tokenizer.common_options import prefixes_argument, tokenizer_option
from tokenizer.shards.manifest import prefix_of
from tokenizer.shards.shard import open_shard
from tokenizer.vocabulary.load import load_tokenizer

made_by_option = tokenizer_option("Folder of the tokenizer that made the shards.")


@click.command()
@prefixes_argument()
@made_by_option
def index(prefixes: tuple[str, ...], directory: str) -> None:
    """Build the search index of shards, PREFIX.search, with which `search` reads only what may hold a text.

    An index that fits its shard and is sound is left as it is; any other is replaced.
    """
    from tokenizer.search.build import build_index, has_sound_index  # pyarrow takes a second to import
    from tokenizer.search.index_file import index_path

    tokenizer = load_tokenizer(directory)
    for prefix in map(prefix_of, prefixes):
        shard = open_shard(prefix)
        if has_sound_index(shard):
            click.echo(f"{index_path(prefix)} is there, and is as it was written")
            continue
        num_bytes = shard.num_tokens * shard.dtype.itemsize
        with Progress(f"index of {prefix.name}", num_bytes) as progress:
            path = build_index(prefix, tokenizer, progress=progress.update)
        click.echo(f"{path}: {path.stat().st_size:,} bytes, for {num_bytes:,} bytes of tokens")


@click.command()
@prefixes_argument()
@made_by_option
@click.option("--text", metavar="TEXT", help="Text to find, every occurrence.")
@click.option("--regex", metavar="REGEX", help="Regular expression of Python's re to find, in each document's text.")
@click.option("--max", "most", type=click.IntRange(min=1), metavar="N", help="Stop after N occurrences.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each occurrence, one a line.")
def search(
    prefixes: tuple[str, ...], directory: str, text: str | None, regex: str | None, most: int | None, as_json: bool
) -> None:
    """Find a text in the documents of shards.

    Every occurrence in the decoded text is found, however it was cut into tokens, and nothing else. A shard with an index
    (`index`) is read only where the text may lie.
    """
    from tokenizer.search.find import Search, has_index
    from tokenizer.search.index_file import rebuild_command

    wanted = Search(load_tokenizer(directory), text=text, regex=regex)
    found, documents = 0, 0
    for prefix in map(prefix_of, prefixes):
        shard, last = open_shard(prefix), None
        if not has_index(shard):
            command = rebuild_command(prefix, directory)
            click.echo(f"note: {prefix} has no index, so all of it is read; `{command}` makes one", err=True)
        for hit in islice(wanted.find(shard), None if most is None else most - found):
            found, documents, last = found + 1, documents + (hit.document != last), hit.document
            if as_json:
                click.echo(json.dumps({"prefix": str(prefix), **asdict(hit)}, ensure_ascii=False))
            else:
                place = (
                    f"document {hit.document}, tokens {hit.start_token} to {hit.end_token - 1}, byte {hit.start_byte}"
                )
                click.echo(on_one_line(f"{prefix}: {place}: {hit.excerpt}"))
        if found == most:
            click.echo(f"the first {found:,} occurrences, of --max {most}; there may be more", err=True)
            return
    click.echo(f"{found:,} occurrences in {documents:,} documents", err=True)


def add_to(group: click.Group) -> None:
    """Add the commands to the group of this package."""
    for command in (index, search):
        group.add_command(command)
