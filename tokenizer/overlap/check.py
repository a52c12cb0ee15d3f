"""Check of training shards against held-out text: the act."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fanal.errors import UserError
from fanal.files import replacing, sync, sync_path, writing
from fanal.progress import Progress
from tokenizer.documents.input_files import find_inputs
from tokenizer.overlap.held_out import HeldOut, read_held_out
from tokenizer.overlap.report import OverlapReport, overlap_path, report_of, write_note
from tokenizer.overlap.scan import Findings
from tokenizer.overlap.units import By, Stretch, check_decodes, token_stretches, word_stretches
from tokenizer.shards.document_lists import write_numbers
from tokenizer.shards.manifest import prefix_of, prefixes_of, shard_paths
from tokenizer.shards.shard import Shard, open_shard
from tokenizer.vocabulary.folder import Tokenizer
from tokenizer.vocabulary.load import load_tokenizer

DEFAULT_NGRAM = 13


@dataclass(frozen=True, kw_only=True)
class OverlapOptions:
    """How texts are compared."""

    by: By | None = None
    """None: tokens if the held-out side is shards alone, else words."""
    ngram: int = DEFAULT_NGRAM
    min_ngrams: int = 1
    tokenizer: Path | None = None
    """Folder of the tokenizer of all shards; needed for words, and for tokens of text."""
    text_field: str = "text"
    writes_notes: bool = True
    """Whether PREFIX.overlap.json is written beside each training shard."""


def check_overlap(
    training: Sequence[str | Path],
    against: Sequence[str | Path],
    options: OverlapOptions,
    *,
    documents_out: Path | None = None,
) -> OverlapReport:
    """Search training shards for the n-grams of held-out shards and files.

    Memory: about 100 bytes for each unit of the held-out side, and about 100 MB for the training side whatever its size; where
    units are words, also the largest document's text.
    Args: documents_out: file for the list of overlapping training documents, as `exclude` takes it.
    Raises: UserError; DamagedShardError.
    """
    shards = [open_shard(prefix) for prefix in prefixes_of(training)]
    held_shards = [open_shard(prefix_of(name)) for name in against if _is_shard(name)]
    files = [Path(name) for name in against if not _is_shard(name)]
    files = list(find_inputs(files).paths) if files else []
    by: By = options.by or ("words" if files else "tokens")
    tokenizer = None if options.tokenizer is None else load_tokenizer(options.tokenizer)
    _check_sides(shards, held_shards, files, by=by, tokenizer=tokenizer)
    for shard in shards if options.writes_notes else ():
        _check_writable(shard)
    held_out = read_held_out(
        held_shards,
        files,
        by=by,
        n=options.ngram,
        tokenizer=tokenizer,
        text_field=options.text_field,
        num_token_ids=shards[0].manifest.vocab_size,
    )
    findings = Findings(held_out, min_ngrams=options.min_ngrams)
    for shard in shards:
        total = shard.num_tokens * shard.dtype.itemsize
        with Progress(f"check-overlap {shard.prefix.name}", total) as progress:
            for tokens_done in findings.scan(shard, _stretches(shard, held_out, tokenizer)):
                progress.update(tokens_done * shard.dtype.itemsize)
    report = report_of(held_out, findings, by=by, min_ngrams=options.min_ngrams)
    if documents_out is not None:
        _write_documents(documents_out, findings)
    for shard, found in zip(shards, report.training, strict=True) if options.writes_notes else ():
        write_note(shard.prefix, shard.manifest, found.check)
    return report


def _is_shard(name: str | Path) -> bool:
    """Whether a name is a shard's, rather than that of a file of text."""
    return shard_paths(prefix_of(name))[0].is_file() or not Path(name).exists()


def _stretches(shard: Shard, held_out: HeldOut, tokenizer: Tokenizer | None) -> Iterator[Stretch]:
    if held_out.vocabulary is None:
        return token_stretches(shard, held_out.index.n)
    assert tokenizer is not None, "words are of decoded text"
    return word_stretches(shard, tokenizer, held_out.vocabulary)


def _check_sides(
    training: Sequence[Shard], held_out: Sequence[Shard], files: Sequence[Path], *, by: By, tokenizer: Tokenizer | None
) -> None:
    """Raises: UserError where the sides cannot be compared, or a shard is on both."""
    if tokenizer is None and (by == "words" or files):
        what = "words come from decoded text" if by == "words" else "the text of a file becomes tokens by it"
        raise UserError(f"--tokenizer DIR is needed, the tokenizer that made the shards: {what}")
    first, identities = training[0], {shard.manifest.bin_sha256: shard for shard in training}
    for shard in (*training, *held_out):
        if shard.manifest.tokenizer_sha256 != first.manifest.tokenizer_sha256:
            raise UserError(
                f"{shard.prefix} and {first.prefix} were encoded with different tokenizers; check shards of one tokenizer at a "
                "time, or give --against the held-out text itself, a .jsonl file, with --tokenizer DIR"
            )
        if tokenizer is not None:
            check_decodes(shard, tokenizer)
    for shard in held_out:
        if (twin := identities.get(shard.manifest.bin_sha256)) is not None:
            raise UserError(
                f"--against {shard.prefix} has the tokens of the training shard {twin.prefix}, so all of it would be found; leave "
                "one of them out"
            )


def _check_writable(shard: Shard) -> None:
    """Try to write beside a shard before hours are spent. Raises: UserError."""
    path = overlap_path(shard.prefix)
    trial = path.with_name(f"{path.name}.trial")
    try:
        with writing(trial):
            with replacing(trial):
                pass
            trial.unlink()
    except UserError as problem:
        raise UserError(f"{problem}; --no-note leaves out {path}, which says what was found") from None


def _write_documents(path: Path, findings: Findings) -> None:
    """Write the list of overlapping training documents, durably."""
    with writing(path):
        with replacing(path) as stream:
            stream.write(
                b"# training documents that overlap with held-out text, by shard: for `fanal tokenizer exclude`\n"
            )
            for one in findings.shards:
                if one.num_documents:
                    write_numbers(stream, one.shard, (number for part in one.documents for number in part.tolist()))
            sync(stream)
        sync_path(path.parent)
