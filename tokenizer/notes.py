"""What commands say of their work: the line of an import; and notes about inputs, on standard error, that a user may not expect."""

from collections.abc import Sequence
from pathlib import Path

import click

from fanal.files import HASH_BLOCK_BYTES
from fanal.shown import on_one_line
from tokenizer.documents.column_fields import MAX_VALUE_CHARACTERS
from tokenizer.documents.file_names import COMPRESSIONS
from tokenizer.documents.input_files import FoundInputs
from tokenizer.encoding.encode import EncodeReport
from tokenizer.vocabulary.folder import Tokenizer

MAX_LINES = 20
"""Most lines of a list that a manifest has too."""


def imported_line(output: str, tokenizer: Tokenizer) -> str:
    """Return what an import made: ids that documents start and end with, and who encodes."""
    bos, eos = tokenizer.bos_id, tokenizer.eos_id
    starts = "no BOS"
    if bos is not None:
        unless = "" if tokenizer.adds_bos else ", which documents start with if --bos says so"
        starts = f"BOS {tokenizer.piece(bos)!r} ({bos}{unless})"
    return on_one_line(
        f"{output}: {tokenizer.vocab_size:,} tokens, {starts}, EOS {tokenizer.piece(eos)!r} ({eos}), encoded by "
        f"{tokenizer.proved_engine}, sha256 {tokenizer.model_sha256}"
    )


def say_of_model_alone(hf_dir: str, tokenizer: Tokenizer) -> None:
    """Say, of a folder without tokenizer.json, whose ids its text gets: transformers reads such a file by rules of its own."""
    if tokenizer.oracle == "sentencepiece":
        click.echo(
            on_one_line(
                f"note: {hf_dir} has no tokenizer.json, so its ids are SentencePiece's. transformers may cut spaces otherwise, and "
                "no export is certified then; a tokenizer.json with its rules comes from "
                f"AutoTokenizer.from_pretrained({hf_dir!r}).save_pretrained(...)"
            ),
            err=True,
        )


def say_report(output: str, report: EncodeReport) -> None:
    """Say what an encoding left out or did not expect: every document that cannot be read, since no other place lists them."""
    if report.skipped:
        click.echo(f"{output}: left out {len(report.skipped):,} documents that cannot be read:", err=True)
        for problem in report.skipped:
            click.echo(f"  {on_one_line(problem)}", err=True)
    if report.repeated:
        count = report.manifest.num_repeated_fields
        what = f"{count:,} documents give a field more than once, and the last one was taken"
        click.echo(f"{output}: warning: {what}:", err=True)
        _say_first(report.repeated, count)
    for name in report.not_found:
        click.echo(on_one_line(f"{output}: warning: no document has field {name!r} to keep"), err=True)
    for name, count in report.too_long.items():
        what = (
            f"{count:,} documents have a {name!r} of more than {MAX_VALUE_CHARACTERS:,} characters, and it was not kept"
        )
        click.echo(on_one_line(f"{output}: warning: {what}"), err=True)
    for twins in _same_names(report):
        what = f"{' and '.join(twins)} have one name in several compressions, and the shard has the documents of each"
        click.echo(on_one_line(f"{output}: warning: {what}"), err=True)
    for twins in _same_bytes(report):
        what = f"{' and '.join(twins)} hold the same bytes, and the shard has them as often"
        click.echo(on_one_line(f"{output}: warning: {what}"), err=True)
    say_found(report.found)


def _same_bytes(report: EncodeReport) -> list[list[str]]:
    """Return the files that are copies of each other, as far as this part read them whole."""
    by_hash: dict[tuple[str, ...], list[str]] = {}
    for file in report.manifest.input_files or ():
        if file.first_block == 0 and len(file.block_sha256) == -(-file.bytes // HASH_BLOCK_BYTES):
            by_hash.setdefault(file.block_sha256, []).append(file.path)
    return [paths for paths in by_hash.values() if len(paths) > 1][:MAX_LINES]


def _same_names(report: EncodeReport) -> list[list[str]]:
    """Return the files whose names differ in the compression alone."""
    by_name: dict[str, list[str]] = {}
    for file in report.manifest.input_files or ():
        path = Path(file.path)
        by_name.setdefault(str(path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path), []).append(
            file.path
        )
    return [paths for paths in by_name.values() if len(set(paths)) > 1][:MAX_LINES]


def say_found(found: FoundInputs) -> None:
    """Name what a user may not expect of the folders that were given."""
    if found.left_out:
        click.echo(f"left out {len(found.left_out):,} of what the input folders hold:", err=True)
        _say_first([f"{each.path}: {each.reason}" for each in found.left_out[:MAX_LINES]], len(found.left_out))
    if found.outside:
        what = "file read is a link to one" if len(found.outside) == 1 else "files read are links to some"
        places = on_one_line(", ".join(map(str, found.outside[:3])))
        click.echo(f"{len(found.outside):,} {what} outside its folder: {places}", err=True)


def _say_first(lines: Sequence[str], count: int) -> None:
    """Say the first lines of so many."""
    for line in lines[:MAX_LINES]:
        click.echo(f"  {on_one_line(line)}", err=True)
    if count > MAX_LINES:
        click.echo(f"  and {count - MAX_LINES:,} more", err=True)
