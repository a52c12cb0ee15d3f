"""Encoding of documents to one shard: BOS + text + EOS each, in the order of the input or shuffled, with bounded memory.

The main process reads blocks, hashes and writes; workers parse and tokenize. Blocks come back in order, so the shard is the
same for any number of workers.
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from fanal.errors import UserError
from fanal.host_cores import host_cores
from fanal.progress import Progress
from tokenizer.documents.blocks import BLOCK_BYTES, InputReader, OnError, Part, RawBlock
from tokenizer.documents.column_fields import ColumnFields
from tokenizer.documents.file_names import TxtDocuments
from tokenizer.documents.input_files import FoundInputs
from tokenizer.documents.parse import LABELS, Fields
from tokenizer.encoding.block_encoder import EncodedBlock, EncodeJob, encode_block, open_encoder
from tokenizer.encoding.workers import in_order
from tokenizer.shards.labels import CommonLabel, Labels
from tokenizer.shards.manifest import EncodeOptions, ShardManifest
from tokenizer.shards.shard import ShardWriter
from tokenizer.shards.shuffle import Shuffler
from tokenizer.vocabulary.engine import RequestedEngine
from tokenizer.vocabulary.folder import TITLES, Tokenizer

BYTES_PER_TOKEN_AT_LEAST = 2  # of text; sizes the shuffle's temporary files, nothing else
MAX_REPEATED = 20
"""Most documents with a repeated field that are named; in a part, each costs a count of the lines before it."""
MAX_LEFT_OUT = 1000
"""Most files that a manifest names as left out; it is read whenever its shard is opened."""


@dataclass(frozen=True, kw_only=True)
class EncodeReport:
    """Result of an encode run."""

    manifest: ShardManifest
    skipped: tuple[str, ...]
    """Documents left out, with place and reason."""
    num_checked: int
    """Documents whose ids were compared with the oracle's."""
    oracle: str
    """Name of the library that defines the ids."""
    found: FoundInputs
    """Files that were read, and what was left out of the folders."""
    repeated: tuple[str, ...]
    """The first documents that give a field more than once, with place and field."""
    not_found: tuple[str, ...]
    """Fields to keep that no document has."""
    too_long: dict[str, int]
    """Columns of which values were left out for their length, and how many."""


def encode(
    tokenizer_dir: str | Path,
    inputs: Sequence[str | Path],
    output_prefix: str | Path,
    append_bos: bool | None = None,
    append_eos: bool = True,
    *,
    fields: Fields | None = None,
    labels: Labels | None = None,
    txt_documents: TxtDocuments = "file",
    on_error: OnError = "stop",
    engine: RequestedEngine = "auto",
    shuffle_seed: int | None = None,
    part: Part | None = None,
    num_workers: int | None = None,
    columns: ColumnFields | None = None,
) -> EncodeReport:
    """Encode documents to the shard output_prefix.{bin,idx,json}; the same bytes for any num_workers.

    Args: append_bos: None starts documents as the tokenizer starts a text; on_error "skip" leaves bad documents out; num_workers
    defaults to the cores this process may use; part encodes a share of the input, for `merge`; columns, of each document, are
    written to output_prefix.documents.parquet.
    Raises: UserError for a bad tokenizer or input (with file and line), an existing shard, documents that differ in domain
    or licence, or ids that differ from the oracle's. Nothing is left under the shard's names then.
    """
    fields, labels = fields or Fields(), labels or Labels()
    _check_seed(shuffle_seed)
    asked = tuple(name for name in LABELS if getattr(labels, name) is None)
    job = EncodeJob(
        tokenizer_dir=str(tokenizer_dir),
        append_bos=append_bos,
        append_eos=append_eos,
        fields=replace(fields.asking(asked), also=() if columns is None else columns.fields),
        skip_bad_documents=on_error == "skip",
        engine=engine,
        shuffle_seed=shuffle_seed,
        labels=asked,
        columns=columns,
    )
    encoder = open_encoder(job)  # before the workers are forked, so that none of them opens it again
    reader = InputReader(inputs, columns=job.fields.columns, txt_documents=txt_documents, part=part, on_error=on_error)
    with _writer(output_prefix, encoder.tokenizer, columns) as writer:
        tally = Tally(labels)
        paths = list(map(str, reader.paths))
        with (
            Progress(f"encode {Path(output_prefix).name}", reader.total_bytes) as progress,
            closing(_encoded(job, reader, num_workers or host_cores(), progress)) as blocks,
        ):
            if shuffle_seed is None:
                _write_in_turn(blocks, tally, writer, paths)
            else:
                _shuffle(blocks, tally, writer, paths, reader.text_bytes, keep_keys=part is not None)
        if part is None:
            _refuse_empty(writer, tally)
        manifest = writer.finish(
            domain=tally.labels["domain"].result(),
            licence=tally.labels["licence"].result(),
            language=tally.labels["language"].result(),
            source=labels.source,
            input_files=reader.input_files,
            options=EncodeOptions(
                append_bos=encoder.append_bos,
                append_eos=append_eos,
                text_field=fields.text,
                shuffle_seed=shuffle_seed,
                engine=encoder.engine.name,
            ),
            num_skipped=len(tally.skipped),
            part=None if part is None else str(part),
            part_of=None if part is None else _fingerprint(reader, labels, fields, on_error, columns),
            cut_files=None if part is None else reader.cut_files,
            num_left_out=len(reader.found.left_out),
            left_out=reader.found.left_out[:MAX_LEFT_OUT],
            num_repeated_fields=tally.num_repeated,
        )
    return _report(manifest, tally, reader, encoder.tokenizer, columns)


def _report(
    manifest: ShardManifest, tally: "Tally", reader: InputReader, tokenizer: Tokenizer, columns: ColumnFields | None
) -> EncodeReport:
    keep = () if columns is None else columns.keep
    return EncodeReport(
        manifest=manifest,
        skipped=tuple(tally.skipped),
        num_checked=tally.num_checked,
        oracle=TITLES[tokenizer.oracle],
        found=reader.found,
        repeated=tuple(tally.repeated),
        not_found=tuple(name for name in keep if name not in manifest.documents_columns),
        too_long=dict(tally.too_long),
    )


def _writer(output_prefix: str | Path, tokenizer: Tokenizer, columns: ColumnFields | None) -> ShardWriter:
    return ShardWriter(
        output_prefix,
        vocab_size=tokenizer.vocab_size,
        tokenizer_sha256=tokenizer.model_sha256,
        columns=None if columns is None else columns.columns,
    )


def _check_seed(shuffle_seed: int | None) -> None:
    if shuffle_seed is not None and not 0 <= shuffle_seed < 2**63:
        raise UserError(f"shuffle_seed ({shuffle_seed}) must be from 0 to 2**63 - 1; 42 works")


def _fingerprint(
    reader: InputReader, labels: Labels, fields: Fields, on_error: str, columns: ColumnFields | None
) -> str:
    """Return the hash that all parts of a run must share (see ShardManifest.part_of)."""
    names = {name: getattr(fields, name) for name in ("text", *LABELS)}
    shared = [reader.sizes, reader.txt_documents, dataclasses.asdict(labels), names, on_error]
    shared += [] if columns is None else [dataclasses.asdict(columns)]
    return hashlib.sha256(json.dumps(shared).encode()).hexdigest()


@dataclass
class Tally:
    """Labels and counts collected over the blocks of a run."""

    said: Labels
    labels: dict[str, CommonLabel] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    num_repeated: int = 0
    num_checked: int = 0
    too_long: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.labels = {name: CommonLabel(name, getattr(self.said, name)) for name in LABELS}

    def add(self, block: EncodedBlock) -> None:
        for name, found in block.labels.items():
            self.labels[name].add(found)
        self.skipped += block.skipped
        self.num_repeated += len(block.repeated)
        missing = MAX_REPEATED - len(self.repeated)
        self.repeated += [f"{place}: {names}" for place, names in block.repeated[:missing]]
        self.num_checked += block.num_checked
        self.too_long.update(block.too_long)


def _refuse_empty(writer: ShardWriter, tally: Tally) -> None:
    """Raises: UserError if every document was left out."""
    if tally.skipped and not writer.num_documents:
        what = f"all {len(tally.skipped)} were left out, the first: {tally.skipped[0]}"
        raise UserError(f"shard {writer.prefix} would hold no document: {what}")


def _write_in_turn(blocks: Iterator[EncodedBlock], tally: Tally, writer: ShardWriter, paths: Sequence[str]) -> None:
    for block in blocks:
        tally.add(block)
        writer.add_documents(block.lengths, block.tokens)
        if block.rows is not None:
            writer.add_rows(block.rows, paths)


def _shuffle(
    blocks: Iterator[EncodedBlock],
    tally: Tally,
    writer: ShardWriter,
    paths: Sequence[str],
    text_bytes: int,
    *,
    keep_keys: bool,
) -> None:
    expected = text_bytes // BYTES_PER_TOKEN_AT_LEAST * writer.dtype.itemsize
    has_rows = False
    with Shuffler(writer.prefix, writer.dtype, expected) as shuffler:
        for block in blocks:
            tally.add(block)
            shuffler.add(block.keys, block.lengths, block.tokens, block.rows)
            has_rows = block.rows is not None
        for keys, lengths, tokens, rows in shuffler.in_order():
            writer.add_documents(lengths, tokens, keys if keep_keys else None)
            if has_rows:
                writer.add_rows(rows, paths)


def _encoded(
    job: EncodeJob, reader: InputReader, num_workers: int, progress: Progress
) -> Generator[EncodedBlock, None, None]:
    """Yield encoded blocks in the order of the input; at most two per worker are in flight."""
    num_workers = min(num_workers, 1 + reader.text_bytes // BLOCK_BYTES)  # no process without a block
    work, blocks = partial(encode_block, job), _shown(reader, progress)
    yield from map(work, blocks) if num_workers == 1 else in_order(work, blocks, num_workers=num_workers)


def _shown(reader: InputReader, progress: Progress) -> Iterator[RawBlock]:
    """Yield the blocks of the reader, and show how far it is."""
    for block in reader:
        yield block
        progress.update(reader.bytes_read)
