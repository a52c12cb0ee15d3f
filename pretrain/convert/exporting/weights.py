"""Write a checkpoint's masters as safetensors files under Hugging Face's names, a block of rows at a time.

The place of each tensor follows from the shapes, so a header is written before the first number, and a file is written once,
from its first byte to its last. Format: https://github.com/huggingface/safetensors.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fanal.files import sync
from fanal.new_files import create_file
from pretrain.checkpoint.disk.boxes import Box
from pretrain.checkpoint.disk.tensors import TensorReader
from pretrain.convert.ours.names import HfTensor
from pretrain.convert.ours.published import PublishedFile
from pretrain.optim.registry import MASTER

BLOCK_BYTES = 16 << 20
"""Bytes of a tensor's block in float32. Three are in memory: one is read while the one before is written, rounded or not."""
ITEM_BYTES = {"bfloat16": 2, "float32": 4}
FORMAT_NAMES = {"bfloat16": "BF16", "float32": "F32"}


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """One safetensors file to write."""

    name: str
    tensors: tuple[HfTensor, ...]
    dtype: str

    @property
    def header(self) -> bytes:
        """The header: the length of its JSON, the JSON, and spaces up to a multiple of 8 bytes."""
        fields: dict[str, object] = {"__metadata__": {"format": "pt"}}
        place = 0
        for tensor in self.tensors:
            end = place + num_bytes(tensor, self.dtype)
            fields[tensor.name] = {
                "dtype": FORMAT_NAMES[self.dtype],
                "shape": tensor.shape,
                "data_offsets": [place, end],
            }
            place = end
        text = json.dumps(fields, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return len(self.header) + sum(num_bytes(tensor, self.dtype) for tensor in self.tensors)


def num_bytes(tensor: HfTensor, dtype: str) -> int:
    """Return the size of a tensor in a file."""
    return math.prod(tensor.shape) * ITEM_BYTES[dtype]


def plan_files(tensors: Sequence[HfTensor], *, dtype: str, max_shard_bytes: int) -> list[WeightFile]:
    """Return the files of a model, each with at most ``max_shard_bytes`` of tensors, unless a single tensor is larger."""
    groups: list[list[HfTensor]] = [[]]
    held = 0
    for tensor in tensors:
        size = num_bytes(tensor, dtype)
        if groups[-1] and held + size > max_shard_bytes:
            groups.append([])
            held = 0
        groups[-1].append(tensor)
        held += size
    if len(groups) == 1:
        return [WeightFile(name="model.safetensors", tensors=tuple(groups[0]), dtype=dtype)]
    return [
        WeightFile(name=f"model-{number:05d}-of-{len(groups):05d}.safetensors", tensors=tuple(group), dtype=dtype)
        for number, group in enumerate(groups, start=1)
    ]


def index_json(files: Sequence[WeightFile]) -> dict[str, object]:
    """Return the content of model.safetensors.index.json: which file has which tensor."""
    tensors = [tensor for file in files for tensor in file.tensors]
    return {
        "metadata": {
            "total_parameters": sum(math.prod(tensor.shape) for tensor in tensors),
            "total_size": sum(num_bytes(tensor, file.dtype) for file in files for tensor in file.tensors),
        },
        "weight_map": {tensor.name: file.name for file in files for tensor in file.tensors},
    }


def write_file(
    folder: Path,
    file: WeightFile,
    reader: TensorReader,
    on_bytes: Callable[[int], None],
    *,
    state: str = MASTER,
    mode: int = 0o666,
) -> PublishedFile:
    """Write one file, synced to the disk, and return its size and hash as written.

    Args: on_bytes: called with the number of bytes of each block; state: what of the checkpoint is written, the masters or their
    moving average; mode: as ``create_file``.
    Raises: OSError if the disk refuses the write; DamagedCheckpointError.
    """
    digest, written = hashlib.sha256(), 0
    with create_file(folder / file.name, mode=mode, buffering=0) as stream:
        for content in _contents(file, reader, state):
            view = memoryview(content)
            digest.update(view)
            written += len(view)
            on_bytes(len(view))
            while view:
                view = view[stream.write(view) :]
        sync(stream)
    assert written == file.num_bytes, f"{file.name} has {written} bytes, and its header says {file.num_bytes}"
    return PublishedFile(path=file.name, bytes=written, sha256=digest.hexdigest())


def _contents(file: WeightFile, reader: TensorReader, state: str) -> Iterator[Any]:
    """Yield the file's bytes in buffers, from the first byte to the last."""
    yield file.header
    for values in _read_ahead(values for tensor in file.tensors for values in row_blocks(tensor, reader, state)):
        yield (values if file.dtype == "float32" else rounded(values)).reshape(-1).view(np.uint8).data


def _read_ahead(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the same blocks, the next one read by a thread while one is used: otherwise the times of disk and hash add up."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, blocks, None)
        while (values := coming.result()) is not None:
            coming = thread.submit(next, blocks, None)
            yield values


def row_blocks(tensor: HfTensor, reader: TensorReader, state: str = MASTER) -> Iterator[np.ndarray]:
    """Yield a tensor's values in a state from first row to last: float32, contiguous, at most BLOCK_BYTES each (or one row)."""
    if tensor.constant is not None:
        yield np.full((1,), tensor.constant, np.float32)
    for box in tensor.boxes:
        columns = math.prod(box.size[1:])
        step = max(1, BLOCK_BYTES // (4 * columns))
        for first in range(0, box.size[0], step):
            size = (min(step, box.size[0] - first), *box.size[1:])
            values = np.empty(size, np.float32)
            reader.read(tensor.tensor, state, Box(offset=(box.offset[0] + first, *box.offset[1:]), size=size), values)
            yield values


def rounded(values: np.ndarray) -> np.ndarray:
    """Round float32 to bfloat16, to nearest even like the trainer's own weights, and return the bits as int16."""
    return torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy()
