"""What grows with the files that a shard is made from."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

from bench.growth.case import Act, Growth
from fanal.files import InputFile
from fanal.records import write_record
from tokenizer.documents.input_files import find_inputs
from tokenizer.encoding.encode import encode
from tokenizer.shards.manifest import ShardManifest, read_manifest, with_own_hash
from tokenizer.shards.shard import open_shard
from tokenizer.verify_shards import verify
from tokenizer.vocabulary.spec import load_spec
from tokenizer.vocabulary.train import train_tokenizer

SPEC = Path(__file__).parents[2] / "tokenizer" / "specs" / "tiny-2k.yaml"
SIZES = (10, 200, 2_000, 20_000)


def tiny_files(folder: Path, count: int) -> Path:
    """A folder of files with one short document each."""
    texts = folder / "texts"
    texts.mkdir()
    for number in range(count):
        (texts / f"{number:06d}.jsonl").write_text(json.dumps({"text": f"The number {number} has a file."}) + "\n")
    return texts


def tokenizer_in(folder: Path) -> Path:
    """A tokenizer of few pieces."""
    text = folder / "training.jsonl"
    words = [f"{first}{second}{last}" for first in "bdfgklmnprst" for second in "aeiou" for last in "lmnrstbdgk"]
    sentences = [f"{word} {other} The file has a number." for word in words for other in words[::20]]
    text.write_text("".join(json.dumps({"text": sentence}) + "\n" for sentence in sentences))
    spec = replace(load_spec(SPEC), vocab_size=400)
    train_tokenizer(spec, [text], folder / "tokenizer")
    return folder / "tokenizer"


def shard_of(folder: Path, count: int) -> tuple[Path, ShardManifest]:
    """A small shard, and its manifest as if it were made from so many files."""
    encode(tokenizer_in(folder), [tiny_files(folder, 10)], folder / "shard", num_workers=1)
    files = [
        InputFile(path=f"/corpus/{n:06d}.jsonl", bytes=99 + n, first_block=0, block_sha256=("ab" * 32,))
        for n in range(count)
    ]
    manifest = with_own_hash(replace(read_manifest(folder / "shard"), input_files=tuple(files), manifest_sha256=None))
    write_record(folder / "shard.json", manifest)
    return folder / "shard", manifest


def scan_folder(size: int, folder: Path) -> Act:
    """Which files a folder holds."""
    texts = tiny_files(folder, size)
    return lambda: {"files": len(find_inputs([texts]).paths)}


def encode_files(size: int, folder: Path) -> Act:
    """A shard of tiny files by one process: the fixed cost of a file."""
    texts, tokenizer = tiny_files(folder, size), tokenizer_in(folder)

    def act() -> None:
        shutil.rmtree(folder / "shards", ignore_errors=True)
        encode(tokenizer, [texts], folder / "shards" / "made", num_workers=1)

    return act


def write_manifest(size: int, folder: Path) -> Act:
    """The manifest, hashed and brought to disk."""
    _, manifest = shard_of(folder, size)
    return lambda: write_record(folder / "again.json", with_own_hash(manifest))


def open_it(size: int, folder: Path) -> Act:
    """What every rank does at every start."""
    prefix, _ = shard_of(folder, size)
    return lambda: open_shard(prefix)


def verify_it(size: int, folder: Path) -> Act:
    """The quick check."""
    prefix, _ = shard_of(folder, size)
    return lambda: {"problems": sum(len(result.problems) for result in verify([prefix]))}


CASES = (
    Growth(name="scan a folder", grows_with="files", sizes=SIZES, prepare=scan_folder),
    Growth(name="encode tiny files", grows_with="files", sizes=SIZES[:3], prepare=encode_files),
    Growth(name="write a shard's manifest", grows_with="files", sizes=SIZES, prepare=write_manifest),
    Growth(name="open a shard", grows_with="files", sizes=SIZES, prepare=open_it),
    Growth(name="verify a shard", grows_with="files", sizes=SIZES, prepare=verify_it),
)
