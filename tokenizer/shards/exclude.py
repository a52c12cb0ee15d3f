"""A shard without some of its documents: the bytes that an encoding of the others would give, and a note of what left and why.

Nothing is decoded: documents are whole in a shard, so what is left is copied, with its columns where the shard has them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fanal.errors import UserError
from fanal.progress import Progress
from tokenizer.shards.excluded_list import excluded_bytes, read_excluded, removal
from tokenizer.shards.index import document_batches, read_lengths
from tokenizer.shards.labels import label_problem
from tokenizer.shards.manifest import DamagedShardError, ShardError, ShardManifest, read_manifest, shard_paths
from tokenizer.shards.selection import Selection, select
from tokenizer.shards.shard import Shard, open_shard
from tokenizer.shards.verify import columns_problems, deep_problems
from tokenizer.shards.writer import ShardWriter

BATCH_TOKENS = 1 << 22


@dataclass(frozen=True, kw_only=True)
class ExcludedShard:
    """A shard that was made without some documents."""

    manifest: ShardManifest
    """Its manifest, whose last exclusion is this one."""
    missing_ids: tuple[str, ...]
    """Ids that were to leave and that no document has."""


def exclude(prefix: str | Path, output: str | Path, selection: Selection, *, reason: str) -> ExcludedShard:
    """Write the shard ``output``: the documents of another one that the selection does not name, in their order.

    All of the shard is read and compared with its manifest first, since its bytes get new hashes.
    Raises: ShardError for a part of an encoding, a selection of no or of all documents, an output that exists; DamagedShardError;
        UserError for a reason that is no line.
    """
    if problem := label_problem("reason", reason):
        raise UserError(f"--reason {problem}")
    shard = _open(prefix)
    lengths = read_lengths(prefix, shard.num_documents)
    selected = select(shard, selection)
    if selected.leaves.all():
        raise ShardError(
            f"all {shard.num_documents:,} documents of {prefix} are selected, and a shard holds at least one; leave {prefix} "
            "out of the mixture instead"
        )
    manifest = read_manifest(prefix)  # with the files it was made from
    removals = (
        *read_excluded(prefix, manifest),
        removal(
            manifest, lengths, selected.leaves, selected_by=selection.as_options(), reason=reason, ids=selected.ids
        ),
    )
    writer = ShardWriter(
        output,
        vocab_size=manifest.vocab_size,
        tokenizer_sha256=manifest.tokenizer_sha256,
        columns=_columns_of(shard),
    )
    with writer, Progress(f"exclude {Path(output).name}", shard.num_tokens * shard.dtype.itemsize) as progress:
        for done in _copy(shard, lengths, ~selected.leaves, writer):
            progress.update(done)
        _copy_columns(shard, ~selected.leaves, writer)
        writer.note_exclusions([one.exclusion for one in removals], excluded_bytes(removals))
        return ExcludedShard(manifest=_finish(writer, manifest), missing_ids=selected.missing_ids)


def _finish(writer: ShardWriter, manifest: ShardManifest) -> ShardManifest:
    """Finish the shard with the labels and origins of the one it is made from."""
    return writer.finish(
        domain=manifest.domain,
        licence=manifest.licence,
        language=manifest.language,
        source=manifest.source,
        input_files=manifest.input_files or (),
        options=manifest.options,
        num_skipped=manifest.num_skipped,
        num_left_out=manifest.num_left_out,
        left_out=manifest.left_out,
        num_repeated_fields=manifest.num_repeated_fields,
        has_other_ids=manifest.has_other_ids,
    )


def _open(prefix: str | Path) -> Shard:
    """Open a whole shard and compare every byte with its manifest. Raises: ShardError; DamagedShardError."""
    shard = open_shard(prefix)
    if shard.manifest.part is not None:
        raise ShardError(
            f"{shard_paths(prefix)[2]} is part {shard.manifest.part} of an encoding, and documents are removed from whole shards; "
            "join the parts with `fanal tokenizer merge`, and exclude from the shard that they make"
        )
    for problem in (*deep_problems(shard), *columns_problems(prefix, shard.manifest, deep=True)):
        raise DamagedShardError(problem)
    return shard


def _copy(shard: Shard, lengths: np.ndarray, stays: np.ndarray, writer: ShardWriter) -> Iterator[int]:
    """Copy the tokens of what stays; yields bytes done."""
    for begin, end, held in document_batches(lengths, BATCH_TOKENS):
        kept = stays[begin:end]
        tokens = shard.tokens[held]
        if not kept.all():
            tokens = tokens[np.repeat(kept, lengths[begin:end])]
        writer.add_documents(lengths[begin:end][kept], tokens)
        yield held.stop * shard.dtype.itemsize


def _columns_of(shard: Shard) -> tuple[str, ...] | None:
    """Return the columns behind those of the documents' origin; None for a shard without columns."""
    if shard.manifest.documents_sha256 is None:
        return None
    from tokenizer.documents.column_fields import ORIGIN

    return tuple(name for name in shard.manifest.documents_columns if name not in ORIGIN)


def _copy_columns(shard: Shard, stays: np.ndarray, writer: ShardWriter) -> None:
    """Copy the rows of what stays, where there are columns."""
    from tokenizer.shards.document_columns import open_columns  # with pyarrow, which takes its time

    if (columns := open_columns(shard.prefix, shard.manifest)) is None:
        return
    import pyarrow

    begin = 0
    for batch in columns.batches(columns.names):
        kept = pyarrow.array(stays[begin : begin + len(batch)])
        writer.add_columns(pyarrow.Table.from_batches([batch]).filter(kept))
        begin += len(batch)
