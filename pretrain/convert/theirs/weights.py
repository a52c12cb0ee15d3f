"""The weights of a Hugging Face folder: safetensors files, all headers checked before a number is read. No torch, no pickle.

The reader is our own, as for checkpoints (shard_file.py): it reads blocks of rows into float32, which the safetensors package
does not do for bfloat16 without torch, and it refuses a foreign file at the first error in its header.
Format: https://github.com/huggingface/safetensors (8 bytes of length, JSON, data without gaps).
"""

import contextlib
import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fanal.errors import UserError, error_type
from fanal.files import reading
from fanal.links import open_inside, read_inside
from fanal.reason import reason

INDEX_JSON, SINGLE = "model.safetensors.index.json", "model.safetensors"
ITEM_BYTES = {"F32": 4, "BF16": 2, "F16": 2}
"""Bytes of a number of each supported type, by the type's name in the format."""
MAX_HEADER_BYTES = 100_000_000
"""Largest header that the format allows."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class BadWeightsError(UserError):
    """Error: weights that are missing, damaged or not supported; the message names the file."""


@dataclass(frozen=True, kw_only=True)
class HfEntry:
    """A tensor in one of the files."""

    file: str
    dtype: str
    """Type of the numbers, a key of ITEM_BYTES."""
    shape: tuple[int, ...]
    start: int
    """Offset of the first byte in the file."""


class HfWeights:
    """The tensors of one folder. Use ``open_hf_weights``."""

    def __init__(self, folder: Path, entries: Mapping[str, HfEntry], files: Mapping[str, int]) -> None:
        self.folder, self.entries = folder, entries
        self._descriptors = files

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files, in order."""
        return tuple(sorted(self._descriptors))

    def read_rows(self, name: str, first_row: int, num_rows: int) -> np.ndarray:
        """Read rows of a matrix, or elements of a vector: float32, exactly the numbers in the file.

        Raises: BadWeightsError if the file ends inside them, or if one of them is not finite; OSError with the file's path.
        """
        entry = self.entries[name]
        path = self.folder / entry.file
        item = ITEM_BYTES[entry.dtype]
        columns = math.prod(entry.shape[1:])
        raw = np.empty(num_rows * columns * item, np.uint8)
        place, left = entry.start + first_row * columns * item, memoryview(raw.data)
        while left:
            with reading(path):
                count = os.preadv(self._descriptors[entry.file], [left], place)
            if count == 0:
                raise BadWeightsError(f"{path} ends inside {name}; copy it again")
            left, place = left[count:], place + count
        if entry.dtype == "BF16":  # the upper half of a float32
            values = (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            values = raw.view("<f4" if entry.dtype == "F32" else "<f2").astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            raise BadWeightsError(
                f"{name} in {path} must hold finite numbers, and has NaN or infinite ones; copy it again, or use other weights"
            )
        return values.reshape(num_rows, *entry.shape[1:])


@contextlib.contextmanager
def open_hf_weights(folder: Path) -> Iterator[HfWeights]:
    """Open the weights of a folder for the duration of a block.

    Raises: BadWeightsError naming the file that is missing or does not match the format or the index.
    """
    listed = _listed_files(folder)
    descriptors: dict[str, int] = {}
    try:
        entries: dict[str, HfEntry] = {}
        for file, expected in listed.items():
            descriptors[file] = _open(folder, file)
            found = _read_header(folder / file, descriptors[file])
            twice = sorted(set(found) & set(entries))
            if twice:
                raise BadWeightsError(
                    f"{twice[0]} is in {folder / file} and in {folder / entries[twice[0]].file}; copy the folder again"
                )
            if expected is not None and set(found) != expected:
                name = min(set(found) ^ expected)
                raise BadWeightsError(
                    f"{folder / INDEX_JSON} and {folder / file} disagree: {name} is in only one of them; copy the folder again"
                )
            entries |= found
        yield HfWeights(folder, entries, descriptors)
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)


def _listed_files(folder: Path) -> dict[str, set[str] | None]:
    """Return the files of the weights, each with the tensors that the index lists for it; None where there is no index."""
    has_index, has_single = (folder / INDEX_JSON).exists(), (folder / SINGLE).exists()
    if has_index and has_single:
        raise BadWeightsError(f"{folder} has both {INDEX_JSON} and {SINGLE}; keep the one that holds the weights")
    if has_single:
        return {SINGLE: None}
    if has_index:
        return dict(_read_index(folder))
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        raise BadWeightsError(
            f"{folder} has its weights only in {pickles[0]}, a pickle, which can run code when it is read and is never read; use a "
            f"version of the model with {SINGLE}"
        )
    raise BadWeightsError(f"{folder} has neither {SINGLE} nor {INDEX_JSON}; copy the weights there")


def _read_index(folder: Path) -> dict[str, set[str]]:
    path = folder / INDEX_JSON
    try:
        text = read_inside(folder, INDEX_JSON)
    except OSError as error:
        raise error_type(error, BadWeightsError)(f"{path} cannot be read ({error.strerror}); copy it again") from None
    try:
        weight_map = json.loads(text, object_pairs_hook=_no_duplicates)["weight_map"]
        files: dict[str, set[str]] = {}
        for name, file in weight_map.items():
            if not isinstance(file, str) or file != Path(file).name or not file.endswith(".safetensors"):
                raise UserError(f"{name} is listed in {file!r}, which is not a .safetensors file in this folder")
            files.setdefault(file, set()).add(name)
        if not files:
            raise UserError("its weight_map is empty")
        return dict(sorted(files.items()))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BadWeightsError(f"{path} is not an index of weights ({reason(error)}); copy it again") from None


def _open(folder: Path, file: str) -> int:
    """Open a file of the weights and return its descriptor. Raises: BadWeightsError; as ``open_inside``."""
    path = folder / file
    try:
        return open_inside(folder, file)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EISDIR, errno.ENXIO):
            raise BadWeightsError(f"{path} must be a file, and is not one; copy it again") from None
        raise error_type(error, BadWeightsError)(
            f"{path} cannot be read ({error.strerror}): a file of the weights is missing; copy it again"
        ) from None
    except UserError:
        raise
    except ValueError:  # a NUL, or half a character
        raise BadWeightsError(
            f"{path.parent / INDEX_JSON} names a file {path.name!r}, and no file can have that name; copy the folder again"
        ) from None


def _read_header(path: Path, descriptor: int) -> dict[str, HfEntry]:
    """Read the tensors of a file, whose data must fill it without gap or overlap. Raises: BadWeightsError."""
    num_bytes = os.fstat(descriptor).st_size
    try:
        length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
        if num_bytes < 8 or length > min(MAX_HEADER_BYTES, num_bytes - 8):
            raise UserError(f"a header of {length:,} bytes in a file of {num_bytes:,}")
        fields = json.loads(os.pread(descriptor, length, 8), object_pairs_hook=_no_duplicates)
        fields.pop("__metadata__", None)
        entries = {}
        end = 0
        for name, entry in sorted(fields.items(), key=lambda item: item[1]["data_offsets"]):
            entries[name] = _parse_entry(path, name, entry, data_start=8 + length, previous_end=end)
            end = entry["data_offsets"][1]
        if 8 + length + end != num_bytes:
            raise UserError(f"its tensors end at byte {8 + length + end:,} and the file at {num_bytes:,}")
        return entries
    except BadWeightsError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise BadWeightsError(f"{path} is not a complete safetensors file ({reason(error)}); copy it again") from None


def _parse_entry(path: Path, name: str, entry: Any, *, data_start: int, previous_end: int) -> HfEntry:
    dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in ITEM_BYTES:
        raise BadWeightsError(f"{name} in {path} is of type {dtype}; {', '.join(ITEM_BYTES)} are supported")
    if any(type(n) is not int or n < 0 for n in (*shape, start, end)):
        raise UserError(f"{name} has shape {shape} and bytes {start} to {end}")
    if start != previous_end or end - start != math.prod(shape) * ITEM_BYTES[dtype]:
        raise UserError(f"{name}, of type {dtype} and shape {shape}, has bytes {start} to {end}")
    return HfEntry(file=path.name, dtype=dtype, shape=tuple(shape), start=data_start + start)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise UserError("a name appears twice")
    return found
