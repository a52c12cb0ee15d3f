"""Manifest for a shard that Megatron, or another writer of its format, has made."""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fanal.errors import error_type, user_path
from fanal.files import block_sha256_of_file, sha256_of_file, sync_path, write_bytes_durably, writing
from fanal.plain_files import plain_stream
from fanal.records import record_bytes
from tokenizer.shards.index import (
    DTYPE_CODES,
    HEADER,
    MAGIC,
    document_batches,
    read_document_indices,
    read_lengths,
    read_pointers,
)
from tokenizer.shards.labels import Labels
from tokenizer.shards.manifest import (
    DTYPES,
    FORMAT_VERSION,
    EncodeOptions,
    ShardError,
    ShardManifest,
    documents_path,
    fanal_version,
    shard_paths,
    with_own_hash,
)
from tokenizer.shards.writer import MAX_DOCUMENT_TOKENS, ShardWriter
from tokenizer.vocabulary.folder import Tokenizer
from tokenizer.vocabulary.load import load_tokenizer

if TYPE_CHECKING:
    from tokenizer.shards.adopted_columns import AdoptedColumns

BLOCK_TOKENS = 1 << 22
CHECKED_DOCUMENTS, CHECKED_TOKENS = 64, 2_000
"""Documents whose text is encoded again, at most, and tokens of each."""
TELLING_TOKENS, CUT_TOKENS = 16, 8
"""Tokens from which on a document says something of its tokenizer, and those at its end that are not compared."""
MEGATRON_DTYPES = {1: "uint8", 2: "int8", 3: "int16", 5: "int64", 6: "float64", 7: "float32"}
"""Dtype codes that are not supported, for messages. Source: megatron.core.datasets.indexed_dataset.DType."""


def adopt(
    prefix: str | Path,
    tokenizer_dir: str | Path,
    labels: Labels | None = None,
    *,
    has_other_ids: bool = False,
    output: str | Path | None = None,
) -> ShardManifest:
    """Read .bin and .idx completely, check them against the tokenizer and each other, and write PREFIX.json.

    Args: has_other_ids: whether the ids are another tokenizer's on purpose; the manifest says so then. output: the prefix of a
    new shard with the same tokens, one sequence a document; it may be made of documents that are empty, which are left out and
    counted as skipped, or cut into several sequences. PREFIX.documents.parquet, if it is there, is taken over.
    Raises: ShardError if there is a manifest already, a file is missing or cut, the layout is not one sequence per document,
    an id is outside the tokenizer's vocabulary, or no document gets its ids again from its text; UserError for a bad tokenizer.
    """
    labels = labels or Labels()
    tokenizer = load_tokenizer(tokenizer_dir)
    bin_path, idx_path, json_path = shard_paths(prefix)
    with user_path(prefix):
        has_manifest = json_path.exists()
    if has_manifest:
        raise ShardError(f"{json_path} exists: the shard has a manifest; `fanal tokenizer verify {prefix}` checks it")
    dtype_name, num_sequences, num_documents = _read_header(idx_path)
    if output is not None:
        return _copy(
            prefix, output, tokenizer, labels, dtype_name, num_sequences, num_documents, has_other_ids=has_other_ids
        )
    _check_one_sequence_each(prefix, tokenizer_dir, labels, has_other_ids, num_sequences, num_documents)
    num_tokens = _check_tables(prefix, dtype_name, num_sequences, num_documents)
    if not np.array_equal(read_document_indices(prefix, num_sequences), np.arange(num_documents + 1)):
        raise ShardError(f"{idx_path} holds document indices other than 0 to {num_documents}; preprocess again")
    lengths = read_lengths(prefix, num_documents)
    with user_path(prefix):
        tokens = np.memmap(bin_path, DTYPES[dtype_name], mode="r", shape=(num_tokens,))
    highest = _highest_id(tokens, lengths, tokenizer, bin_path)
    if not has_other_ids:
        _check_tokenizer(prefix, tokens, np.cumsum(lengths, dtype=np.int64), tokenizer)
    columns = _columns_beside(prefix, num_documents)
    unsealed = ShardManifest(
        format_version=FORMAT_VERSION,
        tokenizer_sha256=tokenizer.model_sha256,
        vocab_size=tokenizer.vocab_size,
        dtype=dtype_name,
        num_documents=num_documents,
        num_tokens=num_tokens,
        highest_token_id=highest,
        idx_sha256=sha256_of_file(idx_path),
        bin_block_sha256=block_sha256_of_file(bin_path),
        domain=labels.domain,
        licence=labels.licence,
        language=labels.language,
        source=labels.source,
        input_files=(),
        options=_options(tokens, lengths, tokenizer),
        fanal_version=fanal_version(),
        has_other_ids=has_other_ids,
        documents_sha256=None if columns is None else sha256_of_file(documents_path(prefix)),
        documents_columns=() if columns is None else columns.found(),
    )
    manifest = with_own_hash(unsealed)
    # Not under the name that a writer's own description has: a writer that finds that one takes .bin and .idx for leftovers.
    part = Path(f"{prefix}.adopt.part")
    write_bytes_durably(part, record_bytes(manifest))
    with writing(json_path):
        part.rename(json_path)
        sync_path(json_path.parent)
    return manifest


def _options(tokens: np.ndarray, lengths: np.ndarray, tokenizer: Tokenizer) -> EncodeOptions:
    """Return what the tokens show of how they were made, of documents that all have some."""
    ends = np.cumsum(lengths, dtype=np.int64)
    return EncodeOptions(
        append_bos=tokenizer.bos_id is not None and bool((tokens[ends - lengths] == tokenizer.bos_id).all()),
        append_eos=bool((tokens[ends - 1] == tokenizer.eos_id).all()),
        text_field=None,
    )


def _copy(
    prefix: str | Path,
    output: str | Path,
    tokenizer: Tokenizer,
    labels: Labels,
    dtype_name: str,
    num_sequences: int,
    num_documents: int,
    *,
    has_other_ids: bool,
) -> ShardManifest:
    """Write the documents that have tokens to a new shard. Raises: ShardError."""
    bin_path, idx_path, _ = shard_paths(prefix)
    num_tokens = _check_tables(prefix, dtype_name, num_sequences, num_documents)
    indices = read_document_indices(prefix, num_sequences, num_documents)
    if indices[0] != 0 or indices[-1] != num_sequences or (np.diff(indices) < 0).any():
        raise ShardError(
            f"{idx_path} holds document indices that do not rise from 0 to {num_sequences}; preprocess again"
        )
    starts = np.concatenate([[0], np.cumsum(read_lengths(prefix, num_sequences), dtype=np.int64)])[indices]
    lengths = np.diff(starts)
    is_full = lengths > 0
    lengths, num_empty = lengths[is_full], int((~is_full).sum())
    if not len(lengths):
        raise ShardError(f"{idx_path} holds no document with a token; leave this shard out")
    if lengths.max() > MAX_DOCUMENT_TOKENS:
        raise ShardError(
            f"{idx_path} holds a document of {lengths.max()} tokens, above {MAX_DOCUMENT_TOKENS}; split it"
        )
    with user_path(prefix):
        tokens = np.memmap(bin_path, DTYPES[dtype_name], mode="r", shape=(num_tokens,))
    _highest_id(tokens, lengths, tokenizer, bin_path)  # before anything is written
    if not has_other_ids:
        _check_tokenizer(prefix, tokens, np.cumsum(lengths, dtype=np.int64), tokenizer)
    columns = _columns_beside(prefix, num_documents)
    with ShardWriter(
        output,
        vocab_size=tokenizer.vocab_size,
        tokenizer_sha256=tokenizer.model_sha256,
        columns=None if columns is None else columns.columns,
    ) as writer:
        for begin, end, held in document_batches(lengths, BLOCK_TOKENS):
            writer.add_documents(lengths[begin:end], tokens[held])
        for rows in [] if columns is None else columns.rows_of(is_full):
            writer.add_columns(rows)
        return writer.finish(
            domain=labels.domain,
            licence=labels.licence,
            language=labels.language,
            source=labels.source,
            input_files=(),
            options=_options(tokens, lengths, tokenizer),
            num_skipped=num_empty,
            has_other_ids=has_other_ids,
        )


def _columns_beside(prefix: str | Path, num_documents: int) -> "AdoptedColumns | None":
    """Open PREFIX.documents.parquet; None if there is none. Raises: ShardError."""
    with user_path(prefix):
        if not documents_path(prefix).exists():
            return None
    from tokenizer.shards.adopted_columns import AdoptedColumns  # with pyarrow

    return AdoptedColumns(prefix, num_documents)


def _check_one_sequence_each(
    prefix: str | Path,
    tokenizer_dir: str | Path,
    labels: Labels,
    has_other_ids: bool,
    num_sequences: int,
    num_documents: int,
) -> None:
    """Check that every document is one sequence of at least one token, as training reads it. Raises: ShardError."""
    idx_path = shard_paths(prefix)[1]
    said = [word for name, value in vars(labels).items() if value is not None for word in (f"--{name}", value)]
    said += ["--ids-of-another-tokenizer"] if has_other_ids else []
    words = (
        "fanal",
        "tokenizer",
        "adopt",
        prefix,
        "--tokenizer",
        tokenizer_dir,
        *said,
        "--output",
        f"{prefix}-adopted",
    )
    remedy = f"`{shlex.join(map(str, words))}` writes a shard of the same tokens, one sequence a document, without empty ones"
    if num_documents != num_sequences:
        raise ShardError(
            f"{idx_path} cuts {num_documents} documents into {num_sequences} sequences, expected one sequence per document; "
            f"{remedy}"
        )
    lengths = read_lengths(prefix, num_sequences)
    if not lengths.any():
        raise ShardError(f"{idx_path} holds no document with a token; leave this shard out")
    if (lengths == 0).any():
        number = int(np.argmax(lengths == 0))
        raise ShardError(f"{idx_path} gives document {number} 0 tokens, expected at least 1; {remedy}")


def _read_header(idx_path: Path) -> tuple[str, int, int]:
    """Return (dtype, number of sequences, number of documents) of an .idx. Raises: ShardError."""
    remedy = "give the PREFIX of a .bin and .idx pair that Megatron's preprocessing wrote"
    try:
        with plain_stream(idx_path) as stream:
            content = stream.read(HEADER.size)
            num_bytes = os.fstat(stream.fileno()).st_size
    except OSError as problem:
        raise error_type(problem, ShardError)(f"{idx_path} cannot be read ({problem.strerror}); {remedy}") from None
    if len(content) < HEADER.size or content[: len(MAGIC)] != MAGIC:
        raise ShardError(f"{idx_path} does not begin with {MAGIC!r}; {remedy}")
    _, version, code, num_sequences, num_indices = HEADER.unpack(content)
    names = {number: name for name, number in DTYPE_CODES.items()}
    if version != 1 or code not in names:
        found = MEGATRON_DTYPES.get(code, f"code {code}")
        raise ShardError(f"{idx_path} has version {version} and dtype {found}, expected 1 and {' or '.join(DTYPES)}")
    if not num_sequences:
        raise ShardError(f"{idx_path} holds no document; leave this shard out")
    wanted = HEADER.size + 12 * num_sequences + 8 * num_indices
    if num_bytes != wanted:  # before memory is taken for as many
        raise ShardError(
            f"{idx_path} has {num_bytes} bytes, expected {wanted} for {num_indices - 1} documents; copy it again"
        )
    return names[code], num_sequences, num_indices - 1


def _check_tables(prefix: str | Path, dtype_name: str, num_sequences: int, num_documents: int) -> int:
    """Check the tables of an .idx and return the number of tokens. Raises: ShardError if a file's size or a table does
    not fit."""
    bin_path, idx_path, _ = shard_paths(prefix)
    itemsize = DTYPES[dtype_name].itemsize
    lengths = read_lengths(prefix, num_sequences).astype(np.int64)
    pointers = read_pointers(prefix, num_sequences)
    ends = np.cumsum(lengths) * itemsize
    if (lengths < 0).any():
        number = int(np.argmax(lengths < 0))
        raise ShardError(
            f"{idx_path} gives sequence {number} {lengths[number]} tokens, expected 0 or more; copy it again"
        )
    if not np.array_equal(pointers, ends - lengths * itemsize):
        raise ShardError(
            f"{idx_path} holds documents that do not lie one after the other in the .bin; preprocess again"
        )
    if not bin_path.is_file() or bin_path.stat().st_size != ends[-1]:
        found = f"has {bin_path.stat().st_size} bytes" if bin_path.is_file() else "does not exist"
        raise ShardError(f"{bin_path} {found}, expected {ends[-1]} bytes by the .idx; copy it again")
    return int(ends[-1]) // itemsize


def _highest_id(tokens: np.ndarray, lengths: np.ndarray, tokenizer: Tokenizer, bin_path: Path) -> int:
    highest = -1
    for start in range(0, len(tokens), BLOCK_TOKENS):
        block = tokens[start : start + BLOCK_TOKENS]
        bad = (block < 0) | (block >= tokenizer.vocab_size)
        if bad.any():
            at = start + int(np.argmax(bad))
            document = int(np.searchsorted(np.cumsum(lengths, dtype=np.int64), at, side="right"))
            raise ShardError(
                f"{bin_path} holds id {int(tokens[at])} at token {at} (document {document}), and {tokenizer.directory} has ids "
                f"0 to {tokenizer.vocab_size - 1}; name the tokenizer that made the shard"
            )
        highest = max(highest, int(block.max()))
    return highest


def _check_tokenizer(prefix: str | Path, tokens: np.ndarray, ends: np.ndarray, tokenizer: Tokenizer) -> None:
    """Decode documents spread over the shard and encode their text: with another tokenizer of as many ids, none comes back.

    Raises: ShardError.
    """
    numbers = np.unique(np.linspace(0, len(ends) - 1, CHECKED_DOCUMENTS).round().astype(np.int64)).tolist()
    starts = np.append(0, ends[:-1])
    control = set(tokenizer.control_ids)
    documents = [tokens[starts[number] : ends[number]][:CHECKED_TOKENS].tolist() for number in numbers]
    texts = [[token for token in ids if token not in control] for ids in documents]
    longer = [ids for ids in texts if len(ids) >= TELLING_TOKENS]
    if not longer:
        return  # a few tokens come back from any tokenizer, or from none
    again = tokenizer.encode_batch([tokenizer.decode(ids) for ids in longer], num_threads=1)
    # A document that was cut here may end in the middle of a word.
    if not any(
        found.tolist()[: len(ids) - CUT_TOKENS] == ids[: len(ids) - CUT_TOKENS]
        for ids, found in zip(longer, again, strict=True)
    ):
        raise ShardError(
            f"none of {len(longer)} documents of {prefix} gets its ids again when {tokenizer.directory} decodes and encodes them: "
            "that is not the tokenizer that made the shard; name the one that did, or, if there is no folder of it, as of an "
            "imported model's, say --ids-of-another-tokenizer"
        )
