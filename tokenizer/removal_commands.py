"""Commands about documents that should not be trained on: what overlaps with held-out text, and a shard without it."""

from pathlib import Path
from typing import Any

import click

from fanal.command_group import ManyInputsCommand, complete_path
from fanal.console import print_table
from fanal.files import write_bytes_durably
from fanal.records import record_bytes
from fanal.shown import on_one_line
from tokenizer.common_options import prefixes_argument, tokenizer_option
from tokenizer.new_file import check_new_file
from tokenizer.overlap import check as overlap_module
from tokenizer.overlap.check import DEFAULT_NGRAM, OverlapOptions
from tokenizer.shards import exclude as exclude_module
from tokenizer.shards.manifest import prefix_of
from tokenizer.shards.selection import Selection
from tokenizer.tables import overlap_table

MOST_NAMED = 10
"""Held-out documents that check-overlap prints, whose JSON names all; and ids that exclude does."""


@click.command()
@click.argument("prefix", metavar="PREFIX", shell_complete=complete_path)
@click.option(
    "--documents",
    metavar="LIST",
    shell_complete=complete_path,
    multiple=True,
    help="File of document numbers, one a line, or what check-overlap --documents-out wrote.",
)
@click.option(
    "--ids",
    metavar="LIST",
    shell_complete=complete_path,
    multiple=True,
    help="File of ids, one a line; needs the column id beside the shard. Those that are not there are named.",
)
@click.option("--host", metavar="DOMAIN", multiple=True, help="All documents of this registrable domain (column host).")
@click.option("--licence", metavar="TEXT", multiple=True, help="All documents of this licence (column licence).")
@click.option("--language", metavar="TEXT", multiple=True, help="All documents of this language (column language).")
@click.option("--reason", metavar="TEXT", required=True, help="Why they leave, one line; the manifest keeps it.")
@click.option(
    "--output",
    metavar="PREFIX2",
    shell_complete=complete_path,
    required=True,
    help="Writes PREFIX2.bin, .idx, .json and PREFIX2.excluded.json, the list of what left.",
)
def exclude(
    prefix: str, documents: tuple[str, ...], ids: tuple[str, ...], reason: str, output: str, **values: tuple[str, ...]
) -> None:
    """Write a shard without some documents, and a note of what left and why.

    A document leaves that any of the options names; each may be given again.
    PREFIX stays as it is. The documents that stay keep their order and their tokens: the bytes are those of an encoding of them. A
    run goes on with the new shard from the next entry of data.phases.
    """
    selection = Selection(lists=list(map(Path, documents)), ids=list(map(Path, ids)), values=values)
    made = exclude_module.exclude(prefix_of(prefix), output, selection, reason=reason)
    manifest = made.manifest
    gone = manifest.exclusions[-1]
    click.echo(f"{output}: {manifest.num_documents:,} documents, {manifest.num_tokens:,} tokens of {manifest.dtype}")
    click.echo(f"{output}: without {gone.num_documents:,} documents, {gone.num_tokens:,} tokens of {prefix}")
    if made.missing_ids:
        named = ", ".join(made.missing_ids[:MOST_NAMED]) + ", ..." * (len(made.missing_ids) > MOST_NAMED)
        what = f"{len(made.missing_ids):,} of the ids are of no document of {prefix}: {named}"
        click.echo(on_one_line(f"note: {what}"), err=True)


class CheckOverlapCommand(ManyInputsCommand):
    """``--against a b c`` names three."""

    spread_option = "--against"


@click.command("check-overlap", cls=CheckOverlapCommand)
@prefixes_argument("TRAIN_PREFIX...")
@click.option(
    "--against",
    metavar="PREFIX_OR_FILE...",
    shell_complete=complete_path,
    multiple=True,
    required=True,
    help="Held-out shards, or files or folders of text (.jsonl, .txt, .parquet, ...); several may follow.",
)
@click.option(
    "--by",
    type=click.Choice(["tokens", "words"]),
    help="Units of an n-gram. Default: tokens against shards, words (without case and punctuation) against text.",
)
@click.option(
    "--ngram", type=click.IntRange(1, 1000), default=DEFAULT_NGRAM, show_default=True, help="Units in an n-gram."
)
@click.option(
    "--min-ngrams",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Distinct shared n-grams from which on a training document counts as overlapping.",
)
@tokenizer_option("The tokenizer of the shards; needed where text is on either side.", required=False)
@click.option("--text-field", default="text", show_default=True, help="Field that holds the text of held-out files.")
@click.option("--json", "report_path", metavar="REPORT", shell_complete=complete_path, help="Write the whole report.")
@click.option(
    "--documents-out",
    metavar="LIST",
    shell_complete=complete_path,
    help="Write the overlapping training documents, as `exclude --documents` takes them.",
)
@click.option(
    "--note/--no-note",
    "writes_notes",
    default=True,
    show_default=True,
    help="Write what was found beside each training shard, PREFIX.overlap.json.",
)
def check_overlap(
    prefixes: tuple[str, ...],
    against: tuple[str, ...],
    directory: str | None,
    report_path: str | None,
    documents_out: str | None,
    **options: Any,
) -> None:
    """Find which n-grams of held-out text the training shards hold, and in which documents.

    Both sides are compared unit by unit, so whatever is reported is there. A held-out document with fewer units than an n-gram
    cannot be found; such are counted.
    """
    for name, path in (("--json", report_path), ("--documents-out", documents_out)):
        if path is not None:
            check_new_file(name, Path(path))
    report = overlap_module.check_overlap(
        prefixes,
        against,
        OverlapOptions(tokenizer=None if directory is None else Path(directory), **options),
        documents_out=None if documents_out is None else Path(documents_out),
    )
    if report_path is not None:
        write_bytes_durably(Path(report_path), record_bytes(report))
    print_table(overlap_table(report))
    for one in report.documents[:MOST_NAMED]:
        most = one.most[0]
        where = f"{most.shared_ngrams:,} in document {most.document} of {most.shard}"
        what = f"{one.against} document {one.place}" if one.place.isdigit() else one.place
        click.echo(on_one_line(f"{what}: {one.share:.1%} of {one.num_ngrams:,} n-grams; {where}"))
    if len(report.documents) > MOST_NAMED:
        click.echo(f"and {len(report.documents) - MOST_NAMED:,} more held-out documents; --json FILE names all")
    if report.counts.too_short:
        click.echo(
            f"note: {report.counts.too_short:,} held-out documents have fewer than {report.ngram} {report.by}, so nothing is known "
            "of them; a smaller --ngram reaches them",
            err=True,
        )
