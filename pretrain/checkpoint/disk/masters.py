"""Writing master values alone: the files of a checkpoint that no ranks write, such as an import or an average. No torch here.

Whole tensors, one after the other, a block of rows in memory at a time.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from fanal.hashing import FAST, hash_text, new_hash
from fanal.new_files import create_file
from fanal.run_folder import SHARDS, shard_path
from pretrain.checkpoint.disk.boxes import Box
from pretrain.checkpoint.disk.manifest import FileEntry
from pretrain.checkpoint.disk.shard_file import ITEM_BYTES, header_bytes
from pretrain.checkpoint.disk.stored_sums import stored_sum
from pretrain.checkpoint.disk.tensor_index import IndexedTensor, StoredBox, entry_name
from pretrain.optim.registry import MASTER

FILE_BYTES = 4 << 30
"""Size of a file above which the next tensor goes to a new one: ranks read and hash several files at a time."""


def write_masters(
    part: Path,
    shapes: Mapping[str, tuple[int, ...]],
    blocks: Callable[[str], Iterable[np.ndarray]],
    *,
    weights_dtype: str,
    on_bytes: Callable[[int], None],
    mode: int = 0o666,
) -> tuple[list[FileEntry], dict[str, IndexedTensor]]:
    """Write the master values of every tensor to new files below ``part``; return their hashes and where each tensor is.

    Args: shapes: by name, in the order of the model; blocks: gives a tensor from its first row to its last, float32 and
        contiguous; weights_dtype: precision of the weights, in which their sum is taken; on_bytes: called with the bytes of each
        block; mode: as ``create_file``.
    Raises: OSError if the disk refuses the write; what ``blocks`` raises.
    """
    entries, tensors = [], {}
    (part / SHARDS).mkdir()
    for number, names in enumerate(_files(shapes)):
        path = shard_path(number)
        boxes = {name: Box(offset=(0,) * len(shapes[name]), size=shapes[name]) for name in names}
        header = header_bytes((entry_name(name, MASTER, box), box.size) for name, box in boxes.items())
        digest, num_bytes = new_hash(FAST), len(header)
        digest.update(header)
        with create_file(part / path, mode=mode) as stream:
            stream.write(header)
            for name in names:
                total = written = 0
                for values in blocks(name):
                    stream.write(values.data)
                    digest.update(values.reshape(-1).view("u1").data)
                    written += values.nbytes
                    total += stored_sum(values, weights_dtype)
                    on_bytes(values.nbytes)
                assert written == math.prod(shapes[name]) * ITEM_BYTES, f"{name} {shapes[name]} came as {written} bytes"
                num_bytes += written
                tensors[name] = IndexedTensor(
                    name=name,
                    shape=shapes[name],
                    stored=(StoredBox(file=number, box=boxes[name]),),
                    weights_sum=f"{total % 2**64:016x}",
                )
        entries.append(FileEntry(path=path, bytes=num_bytes, hash=hash_text(FAST, digest)))
    return entries, tensors


def _files(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[list[str]]:
    """Yield the names of each file's tensors, in the order of the model."""
    names: list[str] = []
    held = 0
    for name, shape in shapes.items():
        num_bytes = math.prod(shape) * ITEM_BYTES
        if names and held + num_bytes > FILE_BYTES:
            yield names
            names, held = [], 0
        names.append(name)
        held += num_bytes
    yield names
