"""Lists of documents of shards, by number: what `exclude` is given, and what `check-overlap` writes for it.

A number is only right for the very shard that it was taken from. So a list may name the shard before its numbers, by the hash of
its tokens, and then it is refused for any other; several shards may share a file:

    shard 64-HEXADECIMAL-DIGITS my/shards/train
    12
    57

Empty lines, and lines that begin with #, say nothing. Numbers before any such line are of the shard that is asked for.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from fanal.files import reading
from fanal.shown import on_one_line, shown
from tokenizer.shards.manifest import ShardError, is_sha256
from tokenizer.shards.shard import Shard, shard_paths

HEAD = "shard "
MOST_NAMED = 5


def write_numbers(stream: IO[bytes], shard: Shard, numbers: Iterable[int]) -> None:
    """Write documents of a shard, with the line that names it first."""
    stream.write(f"{HEAD}{shard.manifest.bin_sha256} {on_one_line(str(shard.prefix))}\n".encode(errors="replace"))
    stream.writelines(b"%d\n" % number for number in numbers)


def read_numbers(path: Path, shard: Shard) -> np.ndarray:
    """Return the documents of a shard that a list names, each once, ascending: int64 [documents].

    Raises: ShardError for a line that is no number of a document, or a list without a document of this shard.
    """
    numbers: list[int] = []
    heads: list[str] = []
    wanted, own = shard.manifest.bin_sha256, True
    with reading(path), path.open("rb") as stream:
        for place, line in enumerate(stream, start=1):
            words = line.decode(errors="replace").split()
            if not words or words[0].startswith("#"):
                continue
            if words[0] == HEAD.strip():
                heads.append(_head(words, f"{path}:{place}"))
                own = heads[-1] == wanted
            elif own:
                numbers.append(_number(words, shard, f"{path}:{place}"))
    if heads and not numbers:
        named = ", ".join(dict.fromkeys(head[:12] for head in heads[:MOST_NAMED]))
        raise ShardError(
            f"{path} lists documents of the shard {named}, and none of {shard.prefix}, whose tokens have the sha256 {wanted[:12]}; "
            "a number is right for the shard alone that it was taken from: give that shard, or make the list anew"
        )
    if not numbers:
        raise ShardError(f"{path} lists no document; write the number of one on each line, from 0 on")
    return np.unique(np.array(numbers, dtype=np.int64))


def read_ids(path: Path) -> list[str]:
    """Return the ids that a list names, one a line, each once. Raises: ShardError for none."""
    with reading(path), path.open("rb") as stream:
        lines = (line.decode(errors="replace").removesuffix("\n").removesuffix("\r") for line in stream)
        ids = list(dict.fromkeys(line for line in lines if line))
    if not ids:
        raise ShardError(f"{path} lists no id; write one on each line")
    return ids


def _head(words: Sequence[str], place: str) -> str:
    if len(words) < 2 or not is_sha256(words[1]):
        found = words[1] if len(words) > 1 else ""
        raise ShardError(
            f"{place}: shard {shown(found)} must be named by the sha256 of its tokens, 64 hexadecimal digits, as `fanal tokenizer "
            "check-overlap --documents-out` writes it; without such a line the numbers are of the shard that the command is given"
        )
    return words[1]


def _number(words: Sequence[str], shard: Shard, place: str) -> int:
    last = shard.num_documents - 1
    if len(words) != 1 or not (words[0].isascii() and words[0].isdigit()) or int(words[0][:20]) > last:
        raise ShardError(
            f"{place}: {shown(' '.join(words))} must be the number of a document of {shard_paths(shard.prefix)[1]}, 0 to "
            f"{last}, alone on its line; {last} works"
        )
    return int(words[0])
