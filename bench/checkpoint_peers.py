"""What a save and a load are compared with: a copy in memory, the bare disk, and torch's own checkpoints."""

import ctypes
import mmap
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType, async_save, save

BLOCK_BYTES = 8 << 20

warnings.filterwarnings("ignore", module="torch.distributed.checkpoint.*")


class Memory:
    """Two pieces of memory of this size, every page touched."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self._source, self._target = (mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE) for _ in range(2))
        noise = os.urandom(1 << 20)
        for start in range(0, num_bytes, len(noise)):
            self._source[start : start + len(noise)] = noise[: num_bytes - start]
            self._target[start : start + len(noise)] = noise[: num_bytes - start]
        self._target_at, self._source_at = (
            ctypes.addressof(ctypes.c_char.from_buffer(memory)) for memory in (self._target, self._source)
        )

    def copy(self) -> None:
        """C's memcpy, on one core."""
        ctypes.memmove(self._target_at, self._source_at, self.num_bytes)

    def write(self, path: Path, *, direct: bool) -> None:
        """The source into a new file in big blocks, and to the disk. ``direct``: past the page cache, what is no whole page
        left out."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | (os.O_DIRECT if direct else 0)
        descriptor = os.open(path, flags, 0o600)
        length = self.num_bytes - self.num_bytes % mmap.PAGESIZE if direct else self.num_bytes
        with memoryview(self._source) as source:
            place = 0
            while place < length:
                place += os.write(descriptor, source[place : min(place + BLOCK_BYTES, length)])
        os.fsync(descriptor)
        os.close(descriptor)

    def read(self, path: Path, *, direct: bool) -> None:
        """A file in big blocks into the target."""
        descriptor = os.open(path, os.O_RDONLY | (os.O_DIRECT if direct else 0))
        with memoryview(self._target) as target:
            place = 0
            while count := os.readv(descriptor, [target[place : place + BLOCK_BYTES]]):
                place += count
                if place % mmap.PAGESIZE:
                    break
        os.close(descriptor)


class TorchCheckpoints:
    """torch.distributed.checkpoint on one rank, its staging memory kept from save to save."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], *, process: bool) -> None:
        self._tensors = dict(tensors)
        self._kind = AsyncCheckpointerType.PROCESS if process else AsyncCheckpointerType.THREAD
        # Pinned memory, copies that do not wait and staging in a thread all ask for a GPU.
        self._stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=False, use_shared_memory=process, use_async_staging=False, use_non_blocking_copy=False
            )
        )

    def begin(self, folder: Path) -> "Waits":
        """Start an asynchronous save; what waits for its end."""
        done = async_save(
            self._tensors,
            storage_writer=FileSystemWriter(folder, sync_files=True),
            async_checkpointer_type=self._kind,
            async_stager=self._stager,
        )
        return Waits(done)

    def save(self, folder: Path) -> None:
        """Save synchronously."""
        save(self._tensors, storage_writer=FileSystemWriter(folder, sync_files=True))

    def load(self, folder: Path) -> None:
        """Load the checkpoint into the tensors."""
        load(self._tensors, storage_reader=FileSystemReader(folder))


class Waits:
    """A save under way."""

    def __init__(self, done: object) -> None:
        self._done = done

    def wait(self) -> None:
        """Wait until the checkpoint is complete. Raises: the error of the save."""
        self._done.result()  # type: ignore[attr-defined]
