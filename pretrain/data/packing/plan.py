"""The plan of a source: which pieces of its documents each row holds. A file of 12 bytes a piece and 8 a row, opened by memory map.

It is a function of the lengths of the source's documents, of seq_length and of ALGORITHM: the same for every seed, layout, rank and
length of the run. So it is kept where a run may write, and made again wherever it is not there.

      16 bytes  MAGIC
      32 bytes  BLAKE3 of all that follows
     128 bytes  HEADER: algorithm, the .idx file's SHA-256, seq_length, train_tokens, num_pieces, num_rows, row_tokens,
                num_cut_documents
    8 * pieces  first token of each piece, int64, row by row, in a row by rising token
    4 * pieces  tokens of each piece, int32; and zeros up to a multiple of 8 bytes
8 * (rows + 1)  first piece of each row, int64, and num_pieces
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np
from blake3 import blake3

from fanal.errors import DamageError
from fanal.files import sha256_of_file
from pretrain.data.packing.best_fit import ALGORITHM, GROUP_DOCUMENTS, best_fit_rows, num_pieces, pieces_of
from tokenizer.shards.manifest import DamagedShardError, shard_paths
from tokenizer.shards.shard import Shard
from tokenizer.shards.verify import index_problem

MAGIC = b"FANAL PACKING 1\n"
DIGEST_BYTES = 32
HEADER = struct.Struct("<48s32sqqqqqq")
ARRAYS_AT = len(MAGIC) + DIGEST_BYTES + HEADER.size


@dataclass(frozen=True, kw_only=True)
class PlanKey:
    """What a plan is a function of."""

    idx_sha256: str
    """Hash of the shard's index, which holds the lengths of its documents."""
    train_tokens: int
    """Tokens of the shard, from the first on, that are packed; they end where a document does."""
    seq_length: int
    algorithm: str

    @property
    def file_name(self) -> str:
        """Name of the file that keeps the plan."""
        digest = blake3(repr(self).encode()).hexdigest(length=16)
        return f"{digest}.plan"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The rows of one source."""

    key: PlanKey
    hash: str
    """The algorithm, a colon, and the BLAKE3 of the plan, 64 hexadecimal digits."""
    row_tokens: int
    """Tokens of all rows together without padding; where two pieces of a document share one, it counts twice."""
    num_cut_documents: int
    """Documents of more than seq_length + 1 tokens; every other one is whole in its row."""
    starts: np.ndarray
    """First token of each piece, in the shard: int64 [pieces], mapped."""
    lengths: np.ndarray
    """Tokens of each piece: int32 [pieces], mapped."""
    firsts: np.ndarray
    """First piece of each row, and the number of pieces: int64 [rows + 1], mapped."""

    @property
    def num_rows(self) -> int:
        """Rows of an epoch."""
        return len(self.firsts) - 1

    @property
    def padding_share(self) -> float:
        """Share of the rows' tokens that are none of the source's."""
        return 1.0 - self.row_tokens / (self.num_rows * (self.key.seq_length + 1))

    def pieces(self, row: int) -> tuple[list[int], list[int]]:
        """(First token in the shard, number of tokens) of each piece of a row, in the order in which it holds them."""
        first, end = self.firsts[row : row + 2].tolist()
        return self.starts[first:end].tolist(), self.lengths[first:end].tolist()


def plan_key(shard: Shard, *, train_tokens: int, seq_length: int) -> PlanKey:
    """Return what the plan of these tokens of a shard is a function of."""
    return PlanKey(
        idx_sha256=shard.manifest.idx_sha256, train_tokens=train_tokens, seq_length=seq_length, algorithm=ALGORITHM
    )


def write_plan(stream: IO[bytes], shard: Shard, key: PlanKey) -> None:
    """Make the plan of a shard, in an empty file. Memory: that of GROUP_DOCUMENTS documents, and 8 bytes a row.

    Raises: DamagedShardError if the index is not the one of the manifest.
    """
    problem = index_problem(shard, sha256_of_file(shard_paths(shard.prefix)[1]))
    if problem is not None:  # its plan would be kept under the name of the sound one
        raise DamagedShardError(problem)
    pieces_in_all = num_cut = 0
    for _, lengths in _documents(shard, key.train_tokens):
        pieces_in_all += int(num_pieces(lengths, key.seq_length).sum())
        num_cut += int((lengths > key.seq_length + 1).sum())
    lengths_at, rows_at = _places(pieces_in_all)
    row_ends, at, row_tokens = [np.zeros(1, np.int64)], 0, 0
    for starts, lengths in _documents(shard, key.train_tokens):
        pieces = pieces_of(starts, lengths, key.seq_length)
        row_of, num_rows = best_fit_rows(pieces.lengths, key.seq_length + 1)
        by_row = np.argsort(row_of, kind="stable")
        stream.seek(ARRAYS_AT + 8 * at)
        stream.write(pieces.starts[by_row].astype("<i8").tobytes())
        stream.seek(lengths_at + 4 * at)
        stream.write(pieces.lengths[by_row].astype("<i4").tobytes())
        row_ends.append(at + np.cumsum(np.bincount(row_of, minlength=num_rows)))
        at, row_tokens = at + len(by_row), row_tokens + int(pieces.lengths.sum())
    firsts = np.concatenate(row_ends)
    stream.seek(rows_at)
    stream.write(firsts.astype("<i8").tobytes())
    header = HEADER.pack(
        key.algorithm.encode(), bytes.fromhex(key.idx_sha256), key.seq_length, key.train_tokens, at, len(firsts) - 1, row_tokens,
        num_cut,
    )  # fmt: skip
    stream.seek(0)
    stream.write(MAGIC + bytes(DIGEST_BYTES) + header)
    stream.flush()
    digest = _digest(_mapped(stream))
    stream.seek(len(MAGIC))
    stream.write(digest)
    stream.flush()


def map_plan(stream: IO[bytes], key: PlanKey, *, name: str) -> Plan:
    """Open the plan in a file, once its bytes are found to be those that were written, and of this key.

    Raises: DamageError naming the file (``name``) and what it is otherwise.
    """
    mapped = _mapped(stream)
    if len(mapped) < ARRAYS_AT or mapped[: len(MAGIC)].tobytes() != MAGIC:
        raise _refused(name, "is no plan of this version")
    stored = mapped[len(MAGIC) : len(MAGIC) + DIGEST_BYTES].tobytes()
    if _digest(mapped) != stored:
        raise _refused(name, "is not what was written: its hash is another one")
    algorithm, idx, seq_length, train_tokens, pieces_in_all, num_rows, row_tokens, num_cut = HEADER.unpack(
        mapped[len(MAGIC) + DIGEST_BYTES : ARRAYS_AT].tobytes()
    )
    found = PlanKey(
        idx_sha256=idx.hex(),
        train_tokens=train_tokens,
        seq_length=seq_length,
        algorithm=algorithm.rstrip(b"\0").decode(errors="replace"),
    )
    lengths_at, rows_at = _places(pieces_in_all)
    if found != key or len(mapped) != rows_at + 8 * (num_rows + 1):
        raise _refused(name, f"is the plan of other documents ({found}, expected {key})")
    return Plan(
        key=key,
        hash=f"{key.algorithm}:{stored.hex()}",
        row_tokens=row_tokens,
        num_cut_documents=num_cut,
        starts=mapped[ARRAYS_AT:lengths_at].view("<i8"),
        lengths=mapped[lengths_at : lengths_at + 4 * pieces_in_all].view("<i4"),
        firsts=mapped[rows_at:].view("<i8"),
    )


def _places(pieces_in_all: int) -> tuple[int, int]:
    """Return where in the file the lengths begin, and the rows."""
    lengths_at = ARRAYS_AT + 8 * pieces_in_all
    return lengths_at, -(-(lengths_at + 4 * pieces_in_all) // 8) * 8


def _documents(shard: Shard, train_tokens: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (first tokens, lengths) of GROUP_DOCUMENTS documents at a time: int64 [documents] each."""
    at = 0
    for lengths in shard.document_lengths(GROUP_DOCUMENTS):
        ends = at + np.cumsum(lengths, dtype=np.int64)
        ends = ends[ends <= train_tokens]
        lengths = lengths[: len(ends)].astype(np.int64)
        yield ends - lengths, lengths
        at = int(ends[-1]) if len(ends) else at
        if at == train_tokens:
            return
    raise DamagedShardError(
        f"{shard_paths(shard.prefix)[1]} has no document that ends at token {train_tokens}; copy or encode the shard again"
    )


def _mapped(stream: IO[bytes]) -> np.ndarray:
    if not os.fstat(stream.fileno()).st_size:
        return np.empty(0, np.uint8)
    # A plain view: a memmap makes an object of its class for every slice.
    return np.memmap(stream, dtype=np.uint8, mode="r").view(np.ndarray)


def _digest(mapped: np.ndarray) -> bytes:
    return blake3(mapped[len(MAGIC) + DIGEST_BYTES :].data).digest()


def _refused(name: str, what: str) -> DamageError:
    return DamageError(f"{name} {what}; remove it (`rm {name}`), and the next start makes the plan again")
