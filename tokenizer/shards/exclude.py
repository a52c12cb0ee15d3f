"""A shard without some of its documents: the bytes that an encoding of the others would give, and a note of what left and why.

Nothing is decoded: documents are whole in a shard, so what is left is copied.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fanal.errors import UserError
from fanal.progress import Progress
from tokenizer.shards.document_lists import read_numbers
from tokenizer.shards.excluded_list import excluded_bytes, read_excluded, removal
from tokenizer.shards.index import document_batches, read_lengths
from tokenizer.shards.labels import label_problem
from tokenizer.shards.manifest import DamagedShardError, ShardError, ShardManifest, read_manifest, shard_paths
from tokenizer.shards.shard import Shard, open_shard
from tokenizer.shards.verify import deep_problems
from tokenizer.shards.writer import ShardWriter

BATCH_TOKENS = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What names the documents that leave; a document leaves that any of it names."""

    lists: Sequence[Path] = ()
    """Files of document numbers (document_lists.py)."""

    def as_options(self) -> tuple[str, ...]:
        """Return the selection as the command's options."""
        return tuple(f"--documents {path}" for path in self.lists)


def exclude(prefix: str | Path, output: str | Path, selection: Selection, *, reason: str) -> ShardManifest:
    """Write the shard ``output``: the documents of another one that the selection does not name, in their order.

    All of the shard is read and compared with its manifest first, since its bytes get new hashes.
    Returns: the new manifest, whose last exclusion is this one.
    Raises: ShardError for a part of an encoding, a selection of no or of all documents, an output that exists; DamagedShardError;
        UserError for a reason that is no line.
    """
    if problem := label_problem("reason", reason):
        raise UserError(f"--reason {problem}")
    shard = _open(prefix)
    lengths = read_lengths(prefix, shard.num_documents)
    leaves = _selected(shard, selection)
    if leaves.all():
        raise ShardError(
            f"all {shard.num_documents:,} documents of {prefix} are selected, and a shard holds at least one; leave {prefix} "
            "out of the mixture instead"
        )
    manifest = read_manifest(prefix)  # with the files it was made from
    removals = (
        *read_excluded(prefix, manifest),
        removal(manifest, lengths, leaves, selected_by=selection.as_options(), reason=reason, ids=None),
    )
    writer = ShardWriter(output, vocab_size=manifest.vocab_size, tokenizer_sha256=manifest.tokenizer_sha256)
    with writer, Progress(f"exclude {Path(output).name}", shard.num_tokens * shard.dtype.itemsize) as progress:
        _copy(shard, lengths, ~leaves, writer, progress)
        writer.note_exclusions([one.exclusion for one in removals], excluded_bytes(removals))
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
    for problem in deep_problems(shard):
        raise DamagedShardError(problem)
    return shard


def _selected(shard: Shard, selection: Selection) -> np.ndarray:
    """Return which documents are named: bool [documents]. Raises: ShardError if none is."""
    leaves = np.zeros(shard.num_documents, dtype=bool)
    for path in selection.lists:
        leaves[read_numbers(path, shard)] = True
    if not leaves.any():
        raise ShardError(f"no document of {shard.prefix} is selected; --documents LIST names some by number")
    return leaves


def _copy(shard: Shard, lengths: np.ndarray, stays: np.ndarray, writer: ShardWriter, progress: Progress) -> None:
    for begin, end, held in document_batches(lengths, BATCH_TOKENS):
        kept = stays[begin:end]
        tokens = shard.tokens[held]
        if not kept.all():
            tokens = tokens[np.repeat(kept, lengths[begin:end])]
        writer.add_documents(lengths[begin:end][kept], tokens)
        progress.update(held.stop * shard.dtype.itemsize)
