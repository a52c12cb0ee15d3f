"""Wrong inputs of every kind that the tokenizer's commands read, drawn from a seed: case number N is the same on every machine."""

import copy
import gzip
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import yaml
import zstandard

from tokenizer.documents.blocks import Part
from tokenizer.documents.sample_corpus import make_sample_corpus
from tokenizer.encoding.encode import encode
from tokenizer.vocabulary.spec import TokenizerSpec
from tokenizer.vocabulary.train import train_tokenizer

STRANGE_VALUES: list[Any] = [
    None, True, -1, 0, 1.5, float("nan"), float("inf"), 2**31, 2**63, 2**64, 10**400, "", " ", "x", "\x00", "\udcff", "é" * 3000,
    [], {}, [[]], {"a": {"b": None}}, ["x", 1], "../../etc/passwd", "1e5", "null",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Case:
    """A command on inputs of which one is wrong, in a folder of its own."""

    kind: str
    words: list[str]
    """Of ``fanal tokenizer``."""
    what: str
    """What was done to which file."""
    output: Path
    """Folder that must be empty after a failure."""


def make_good(folder: Path) -> None:
    """Write a small good input of each kind."""
    make_sample_corpus(folder, max_bytes_per_domain=1_000_000)
    with (folder / "train" / "prose.jsonl").open("rb") as stream:
        row = json.loads(stream.readline())
    rows = [row | {"text": row["text"][at : at + 400]} for at in range(0, len(row["text"]), 400)][:100]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (folder / "good.jsonl").write_bytes(lines)
    (folder / "good.jsonl.gz").write_bytes(gzip.compress(lines, 1))
    (folder / "good.jsonl.zst").write_bytes(zstandard.compress(lines))
    (folder / "good.txt").write_text("\n".join(row["text"] for row in rows)[:20_000])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "good.parquet", row_group_size=8)
    symbols = ["\n", "\n\n", "\t"]
    train_tokenizer(
        TokenizerSpec(vocab_size=400, user_defined_symbols=symbols), [folder / "good.jsonl"], folder / "tokenizer"
    )
    encode(folder / "tokenizer", [folder / "good.jsonl"], folder / "good", num_workers=1)
    for number in (1, 2):
        part = [folder / "tokenizer", [folder / "good.jsonl"], folder / f"part-{number}"]
        encode(*part, part=Part(number=number, count=2), num_workers=1)
    (folder / "spec.yaml").write_text(yaml.safe_dump({"vocab_size": 400, "user_defined_symbols": symbols}))


def make_case(number: int, good: Path, folder: Path) -> Case:
    """Write the case's files into ``folder``, which must not exist."""
    draw = random.Random(number)
    kinds = list(KINDS)
    kind = kinds[number % len(kinds)]
    (folder / "output").mkdir(parents=True)
    words, what = KINDS[kind](draw, good, folder)
    return Case(kind=kind, words=words, what=what, output=folder / "output")


# Text


def _lines(draw: random.Random, good: Path, folder: Path) -> tuple[list[str], str]:
    path = _copy(good / "good.jsonl", folder)
    if draw.random() < 0.5:
        rows = path.read_text().splitlines()
        row = json.loads(rows[at := draw.randrange(len(rows))])
        what = f"line {at + 1}: {_spoil_value(draw, row)}"
        rows[at] = _as_json(draw, row)
        path.write_text("\n".join(rows) + "\n", errors="surrogatepass")
    else:
        what = _spoil_file(draw, path, good)
    return _reading(draw, good, folder, path), what


def _bytes_of(name: str) -> Callable[[random.Random, Path, Path], tuple[list[str], str]]:
    def make(draw: random.Random, good: Path, folder: Path) -> tuple[list[str], str]:
        path = _copy(good / name, folder)
        what = _spoil_file(draw, path, good)
        return _reading(draw, good, folder, path), what

    return make


def _columns(draw: random.Random, good: Path, folder: Path) -> tuple[list[str], str]:
    """A Parquet file that is whole, with columns of other types."""
    path = folder / "input.parquet"
    values = draw.choice(
        [[1, 2], [None, "x"], [b"\xff\xfe", b"x"], [["a"], []], [{"a": 1}, None], [1.5, float("nan")], []]
    )
    name = draw.choice(["text", "Text", "domain", "", "text.x"])
    table = {"text": pyarrow.array(["x"] * len(values))} | {name: pyarrow.array(values)}
    pyarrow.parquet.write_table(pyarrow.table(table), path, compression=draw.choice(["none", "snappy", "zstd", "gzip"]))
    return _reading(draw, good, folder, path), f"column {name!r} holds {values}"


def _folder(draw: random.Random, good: Path, folder: Path) -> tuple[list[str], str]:
    path = folder / "inputs"
    path.mkdir()
    shutil.copy(good / "good.jsonl", path / "a.jsonl")
    names = [
        "b.jsonl",
        "b.JSONL",
        ".b.jsonl",
        "._b.jsonl",
        "b\n.jsonl",
        "b.jsonl.gz",
        "b.csv",
        "deep/er/b.jsonl",
        "é" * 100 + ".txt",
    ]
    name = path / draw.choice([*names, os.fsdecode(b"\xff.jsonl")])
    name.parent.mkdir(parents=True, exist_ok=True)
    what = draw.choice(list(STRANGE_FILES))
    STRANGE_FILES[what](name, good)
    return _reading(draw, good, folder, draw.choice([path, path, name])), f"{name.relative_to(folder)!s}: {what}"


STRANGE_FILES: dict[str, Callable[[Path, Path], Any]] = {
    "a link to itself": lambda name, _: name.symlink_to(name),
    "a link that leads nowhere": lambda name, _: name.symlink_to("/nowhere/at/all"),
    "a link to its folder": lambda name, _: name.symlink_to(name.parent),
    "a link to the root": lambda name, _: name.symlink_to("/proc/self"),
    "a pipe that nobody writes": lambda name, _: os.mkfifo(name),
    "zeros without end": lambda name, _: name.symlink_to("/dev/zero"),
    "a terminal": lambda name, _: name.symlink_to("/dev/tty"),
    "nothing": lambda name, _: name.write_bytes(b""),
    "a folder": lambda name, _: name.mkdir(),
    "a whole file again": lambda name, good: shutil.copy(good / "good.jsonl", name),
    "an archive": lambda name, good: shutil.copy(
        shutil.make_archive(f"{name.parent.parent}/x", "zip", good / "tokenizer"), name
    ),
    "a Parquet file": lambda name, good: shutil.copy(good / "good.parquet", name),
    "a sparse gigabyte": lambda name, _: (name.touch(), os.truncate(name, 1 << 30)),
    "a file that nobody may read": lambda name, _: name.touch(mode=0),
}


def _reading(draw: random.Random, good: Path, folder: Path, path: Path) -> list[str]:
    """Return a command that reads documents."""
    given = ["--input", str(path), "--output", str(folder / "output" / "made")]
    tokenizer = ["--tokenizer", str(good / "tokenizer")]
    options = [
        [],
        ["--on-error", "skip"],
        ["--shuffle-seed", "1"],
        ["--part", "2/3"],
        ["--txt-documents", "line"],
        ["--domain", "x"],
    ]
    act = draw.choice(["encode"] * 6 + ["train", "check"])
    if act == "train":
        return ["train", str(good / "spec.yaml"), *given]
    if act == "check":
        return ["check", *tokenizer, *given[:2], "--output", str(folder / "output" / "made.json")]
    return ["encode", *tokenizer, *given, *draw.choice(options), "--workers", draw.choice(["1", "2"])]


# What we wrote ourselves


def _tokenizer(draw: random.Random, good: Path, folder: Path) -> tuple[list[str], str]:
    path = folder / "tokenizer"
    shutil.copytree(good / "tokenizer", path)
    what = _spoil_one_of(draw, sorted(path.iterdir()), good)
    if draw.random() < 0.3:
        return ["check", "--tokenizer", str(path), "--input", str(good / "good.jsonl")], what
    return [
        "encode",
        "--tokenizer",
        str(path),
        "--input",
        str(good / "good.jsonl"),
        "--output",
        str(folder / "output" / "made"),
    ], what


def _shard(draw: random.Random, good: Path, folder: Path) -> tuple[list[str], str]:
    files = [
        _copy(path, folder, path.name) for path in sorted(good.glob("good.???")) if path.suffix in (".bin", ".idx")
    ]
    what = _spoil_one_of(draw, [*files, _copy(good / "good.json", folder, "good.json")], good)
    deep, checked = draw.choice([[], ["--deep"]]), draw.choice([[], ["--tokenizer", str(good / "tokenizer")]])
    return ["verify", str(folder / "good"), *deep, *checked], what


def _parts(draw: random.Random, good: Path, folder: Path) -> tuple[list[str], str]:
    files = [_copy(path, folder, path.name) for path in sorted(good.glob("part-*"))]
    what = _spoil_one_of(draw, files, good)
    return ["merge", str(folder / "part-1"), str(folder / "part-2"), "--output", str(folder / "output" / "made")], what


def _megatron(draw: random.Random, good: Path, folder: Path) -> tuple[list[str], str]:
    """A shard without its manifest, which is what Megatron writes."""
    files = [_copy(good / f"good.{suffix}", folder / "output", f"made.{suffix}") for suffix in ("bin", "idx")]
    what = _spoil_one_of(draw, files, good)
    return ["adopt", str(folder / "output" / "made"), "--tokenizer", str(good / "tokenizer")], what


def _spec(draw: random.Random, good: Path, folder: Path) -> tuple[list[str], str]:
    path = _copy(good / "spec.yaml", folder)
    if draw.random() < 0.7:
        keys = ["vocab_size", "character_coverage", "byte_fallback", "user_defined_symbols", "reserved_tokens", "languages",
                "max_piece_length", "training_characters", "normalization", "split_digits", "no_such_key"]  # fmt: skip
        content = yaml.safe_load(path.read_text())
        content[key := draw.choice(keys)] = (value := draw.choice(STRANGE_VALUES))
        path.write_text(yaml.safe_dump(content), errors="surrogatepass")
        what = f"{key}: {_shown(value)}"
    else:
        what = _spoil_file(draw, path, good)
    return ["train", str(path), "--input", str(good / "good.jsonl"), "--output", str(folder / "output" / "made")], what


KINDS: dict[str, Callable[[random.Random, Path, Path], tuple[list[str], str]]] = {
    "JSON lines": _lines,
    "gzip": _bytes_of("good.jsonl.gz"),
    "Zstandard": _bytes_of("good.jsonl.zst"),
    "text": _bytes_of("good.txt"),
    "Parquet": _bytes_of("good.parquet"),
    "Parquet columns": _columns,
    "folder": _folder,
    "tokenizer": _tokenizer,
    "shard": _shard,
    "parts to merge": _parts,
    "Megatron shard": _megatron,
    "spec": _spec,
}


# Ways to spoil a file


def _spoil_one_of(draw: random.Random, files: list[Path], good: Path) -> str:
    path = draw.choice(files)
    if path.suffix == ".json" and draw.random() < 0.7:
        content = json.loads(path.read_text())
        what = _spoil_value(draw, content)
        path.write_text(_as_json(draw, content), errors="surrogatepass")
        return f"{path.name}: {what}"
    return f"{path.name}: {_spoil_file(draw, path, good)}"


def _spoil_value(draw: random.Random, content: dict[str, Any]) -> str:
    """Change a value anywhere inside, or take a key away."""
    holder: Any = content
    key: Any = draw.choice(list(holder))
    while isinstance(holder[key], dict | list) and holder[key] and draw.random() < 0.6:
        holder = holder[key]
        key = draw.choice(list(holder)) if isinstance(holder, dict) else draw.randrange(len(holder))
    if draw.random() < 0.15:
        del holder[key]
        return f"without {key}"
    value = copy.deepcopy(draw.choice(STRANGE_VALUES))
    holder[key] = value
    return f"{key} is {_shown(value)}"


def _as_json(draw: random.Random, content: Any) -> str:
    text = json.dumps(content, ensure_ascii=draw.random() < 0.5)
    chance = draw.random()
    if chance < 0.05:
        return "[" * 100_000 + text
    if chance < 0.1:
        return text[:-1] + "," + text[1:]  # each key twice
    if chance < 0.15:
        return text * 2
    return text


def _spoil_file(draw: random.Random, path: Path, good: Path) -> str:
    """Change some bytes, or all."""
    data = bytearray(path.read_bytes())
    size = len(data)
    at, length = draw.randrange(size), draw.choice([1, 2, 8, 100, size // 2])
    act = draw.choice(
        ["flip", "flip", "cut", "zeros", "noise", "repeat", "remove", "number", "other", "prefix", "none"]
    )
    if act == "flip":
        data[at] ^= 1 << draw.randrange(8)
    elif act == "cut":
        del data[at:]
    elif act == "zeros":
        data[at : at + length] = bytes(len(data[at : at + length]))
    elif act == "noise":
        data[at : at + length] = draw.randbytes(length)
    elif act == "repeat":
        data[at:at] = data[at : at + length]
    elif act == "remove":
        del data[at : at + length]
    elif act == "number":  # a count or an offset in a header
        at = min(at, draw.randrange(64), max(0, size - 8))
        data[at : at + 8] = draw.choice([0, 1, 2**31, 2**62, 2**63, 2**64 - 1]).to_bytes(8, "little")
    elif act == "other":
        other = draw.choice(
            ["good.jsonl", "good.parquet", "good.jsonl.gz", "good.bin", "good.idx", "spec.yaml", "good.json"]
        )
        data = bytearray((good / other).read_bytes())
        act = f"the bytes of {other}"
    elif act == "prefix":
        data[:0] = draw.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"\x00" * 512, b"[", b"\n" * 100, b"\x1f\x8b"])
    else:
        data.clear()
    path.write_bytes(data)
    return f"{act} at {at} ({length})"


def _copy(path: Path, folder: Path, name: str | None = None) -> Path:
    target = folder / (name or path.name.replace("good", "input"))
    shutil.copy(path, target)
    return target


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) < 40 else text[:37] + "..."
