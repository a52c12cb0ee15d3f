"""The shards of a run are compared with the hashes in their manifests while it trains: once per node, at a bounded rate.

Training maps tokens and reads them in any order, so no rank could hash what it reads. A thread of the first rank of each node
reads the files beside it, from the first byte to the last: each .idx, then each 64 MiB of the .bin. hashlib and reading let go of
the interpreter's lock, so a step waits for neither.

Order: what no start of this run has compared yet, small shards first; then once more what earlier starts have, since a node or
a disk may be another one now. A chain of jobs gets on in this way, however short its jobs are against the data.
"""

import hashlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fanal.files import HASH_BLOCK_BYTES, READ_BLOCK_BYTES, reading
from fanal.host_memory import host_memory
from pretrain.config.schema import VerifyConfig
from pretrain.data.mixture import Mixture
from pretrain.data.sources import Source, Sources
from tokenizer.shards.manifest import DamagedShardError, shard_paths
from tokenizer.shards.shard import Shard
from tokenizer.shards.verify import block_problem, index_problem

CLOSE_TIMEOUT_S = 10
"""A read that a dead file system never answers must not keep the process: its thread is left behind."""
LOOK_EVERY_S = 1.0
"""Longest sleep: by then, how far training has come is looked at again."""
CACHED_SHARE = 0.5
"""Share of the memory up to which the shards of a run may stay in the page cache after they were compared. Larger ones would push
out what training has read ahead, and training seldom reads a page of theirs twice."""


class _Progress:
    """How far one shard has been compared. Its parts: 0 is the .idx, number n the n-th block of the .bin, from 1 on."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.num_parts = 1 + len(shard.manifest.bin_block_sha256)
        self.compared = 0
        """Parts, from the first on, that this start or an earlier one has compared."""
        self.again = self.again_end = 0
        """Parts that only an earlier start has compared."""

    @property
    def bytes_left(self) -> int:
        """Bytes that no start has compared."""
        index_bytes = 0 if self.compared else shard_paths(self.shard.prefix)[1].stat().st_size
        num_bytes = self.shard.num_tokens * self.shard.dtype.itemsize
        return index_bytes + max(0, num_bytes - max(0, self.compared - 1) * HASH_BLOCK_BYTES)

    def carry(self, num_parts: int) -> None:
        """Note that earlier starts have compared so many parts."""
        self.again, self.again_end = min(self.compared, num_parts), num_parts
        self.compared = max(self.compared, num_parts)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What of a training source's tokens was compared, by all nodes."""

    has_index: bool
    num_tokens: int
    """Tokens from the shard's first on."""


class ShardVerifier:
    """The comparison on one rank. Without a configuration, or on a rank that is not its node's first, nothing is read."""

    def __init__(
        self, sources: Sources, mixture: Mixture, config: VerifyConfig | None, *, is_first_of_node: bool
    ) -> None:
        self._sources, self._mixture, self._config = sources, mixture, config
        self.is_first_of_node = is_first_of_node
        found = {str(source.shard.prefix): source.shard for source in [*sources.train, *sources.validation]}
        self._shards = {prefix: _Progress(shard) for prefix, shard in found.items()}
        self._small_first = sorted(self._shards.values(), key=lambda progress: progress.shard.num_tokens)
        num_bytes = sum(shard.num_tokens * shard.dtype.itemsize for shard in found.values())
        self._chunks = np.array([source.order.chunks_per_epoch for source in sources.train], np.float64)
        self._stays_in_cache = num_bytes < CACHED_SHARE * host_memory().total_bytes
        self._done_bytes = self._sample = 0
        self._plan(first_sample=0)
        self._started = 0.0
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to compare, on the first rank of a node."""
        if self._config is not None and self.is_first_of_node:
            self._started = time.monotonic()
            self._thread = threading.Thread(target=self._run, name="verify shards", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop comparing. Twice does no harm."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT_S)

    def resume(self, carried: Sequence[Compared], *, consumed_samples: int) -> None:
        """Go on where earlier starts of the run have come to. Args: carried: for each training source."""
        with self._lock:
            self._sample = consumed_samples
            for source, compared in zip(self._sources.train, carried, strict=True):
                progress = self._progress(source)
                blocks = compared.num_tokens * source.shard.dtype.itemsize / HASH_BLOCK_BYTES
                is_whole = compared.num_tokens == source.shard.num_tokens
                parts = (progress.num_parts - 1 if is_whole else int(blocks)) + 1
                progress.carry(parts if compared.has_index else 0)
            self._plan(first_sample=consumed_samples)

    def check(self, *, consumed_samples: int | None = None) -> None:
        """Raise what the comparison has found; note how far training has come. Cheap, no collective."""
        if self._error is not None:
            raise self._error
        if consumed_samples is not None:
            self._sample = consumed_samples

    def num_parts(self) -> list[int]:
        """Return how many parts of each training source this rank vouches for; a rank that compares nothing, for all."""
        if not self.is_first_of_node:
            return [self._progress(source).num_parts for source in self._sources.train]
        with self._lock:
            return [self._progress(source).compared for source in self._sources.train]

    def compared(self, num_parts: Sequence[int]) -> list[Compared]:
        """Return, for each training source, what so many parts of it are."""
        return [
            Compared(
                has_index=parts > 0,
                num_tokens=min(
                    source.shard.num_tokens, max(0, parts - 1) * HASH_BLOCK_BYTES // source.shard.dtype.itemsize
                ),
            )
            for source, parts in zip(self._sources.train, num_parts, strict=True)
        ]

    def _plan(self, *, first_sample: int) -> None:
        """Note, for each training source, at how many bytes it will have been compared if the work is done in its order."""
        ends, end = {}, self._done_bytes
        for progress in self._small_first:
            end += progress.bytes_left
            ends[str(progress.shard.prefix)] = end
        self._ends = np.array([ends[str(source.shard.prefix)] for source in self._sources.train], np.float64)
        self._drawn_before = self._mixture.drawn(first_sample)
        self._needed = first_sample, 0.0
        self._new_from = self._again_from = 0  # shards of _small_first before these are done

    def _progress(self, source: Source) -> _Progress:
        return self._shards[str(source.shard.prefix)]

    def _run(self) -> None:
        try:
            while not self._closed.is_set() and (found := self._next()) is not None:
                progress, part, is_new = found
                problem = self._compare(progress, part)
                if self._closed.is_set():
                    return
                if problem is not None:
                    raise DamagedShardError(f"{problem} (found while the run trains, by data.verify)")
                with self._lock:
                    if is_new:
                        progress.compared = max(progress.compared, part + 1)
                    else:
                        progress.again = part + 1
        except Exception as error:  # for the main thread, whatever it is
            self._error = error

    def _next(self) -> tuple[_Progress, int, bool] | None:
        """Return the next part to compare, and whether no start has compared it yet; None at the end."""
        with self._lock:
            shards = self._small_first
            # From where the last call came to, since thousands of shards take as many calls.
            while self._new_from < len(shards):
                progress = shards[self._new_from]
                if progress.compared < progress.num_parts:
                    return progress, progress.compared, True
                self._new_from += 1
            while self._again_from < len(shards):
                progress = shards[self._again_from]
                if progress.again < progress.again_end:
                    return progress, progress.again, False
                self._again_from += 1
        return None

    def _compare(self, progress: _Progress, part: int) -> str | None:
        """Read a part; return what is wrong with it. Raises: as ``reading``."""
        shard = progress.shard
        path = shard_paths(shard.prefix)[0 if part else 1]
        first = max(0, part - 1) * HASH_BLOCK_BYTES
        digest = hashlib.sha256()
        for piece in self._pieces(path, first, HASH_BLOCK_BYTES if part else None):
            digest.update(piece)
        found = digest.hexdigest()
        return block_problem(shard, part - 1, found) if part else index_problem(shard, found)

    def _pieces(self, path: Path, first: int, num_bytes: int | None) -> Iterator[memoryview]:
        """Yield the bytes of a part at the allowed pace; stop early once this is closed."""
        buffer = memoryview(bytearray(READ_BLOCK_BYTES))
        with reading(path), path.open("rb", buffering=0) as stream:
            os.posix_fadvise(stream.fileno(), first, num_bytes or 0, os.POSIX_FADV_SEQUENTIAL)
            stream.seek(first)
            left = num_bytes if num_bytes is not None else os.fstat(stream.fileno()).st_size
            while left and (count := stream.readinto(buffer[: min(left, len(buffer))])):
                yield buffer[:count]
                left -= count
                self._done_bytes += count
                self._wait()
                if self._closed.is_set():
                    return
            if not self._stays_in_cache:
                os.posix_fadvise(stream.fileno(), first, num_bytes or 0, os.POSIX_FADV_DONTNEED)

    def _wait(self) -> None:
        """Sleep until more may be read."""
        assert self._config is not None, "nothing is compared without one"
        rate = self._config.bytes_per_s
        behind_s = time.monotonic() - self._started - self._done_bytes / rate
        if behind_s > LOOK_EVERY_S:  # a disk that was slow for an hour is not read the faster for it
            self._started += behind_s - LOOK_EVERY_S
        while not self._closed.is_set():
            ahead_s = self._done_bytes / rate - (time.monotonic() - self._started)
            if ahead_s <= 0 or self._done_bytes <= self._needed_bytes():
                return
            self._closed.wait(min(ahead_s, LOOK_EVERY_S))

    def _needed_bytes(self) -> float:
        """Bytes that must be compared by now, so that each source is when training has passed over it once since the start."""
        sample, needed = self._needed  # one read: a resume may replace it
        if sample != self._sample:
            sample = self._sample
            passes = (self._mixture.drawn(sample) - self._drawn_before) / self._chunks
            needed = float((np.minimum(passes, 1.0) * self._ends).max())
            self._needed = sample, needed
        return needed
