"""A shard's manifest, `PREFIX.json`: what the two data files hold, what they were made from, and their hashes.

It is written last, so a shard without one is unfinished. Every value a reader relies on is here, hence opening a shard
reads no token.
"""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tokenizer.files import InputFile, read_record

FORMAT_VERSION = 1


class ShardError(ValueError):
    """A shard is not what it says. The message names the path, what was found, what was expected and what to do."""


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """How documents became tokens."""

    append_bos: bool
    """Whether each document starts with the tokenizer's BOS id."""
    append_eos: bool
    """Whether each document ends with the tokenizer's EOS id."""
    text_field: str
    """Field of the input lines that was read."""


@dataclass(frozen=True, kw_only=True)
class ShardManifest:
    """What `PREFIX.json` holds."""

    format_version: int
    """1."""
    tokenizer_sha256: str
    """Of the tokenizer.model that gave the ids, 64 hexadecimal digits."""
    vocab_size: int
    """Of that tokenizer: every id is in [0, vocab_size)."""
    dtype: str
    """Of a token in the .bin: uint16 or int32."""
    num_documents: int
    num_tokens: int
    """All of them, BOS and EOS included."""
    highest_token_id: int
    """The highest id that occurs."""
    idx_sha256: str
    bin_sha256: str
    domain: str | None
    """Kind of text; None if the documents did not say."""
    licence: str | None
    """Licence identifier common to all documents; None if they did not say."""
    source: str | None
    """Where the documents come from, in the words of whoever encoded them."""
    input_files: tuple[InputFile, ...]
    options: EncodeOptions
    fanal_version: str
    """Version of the code that wrote the shard."""


def shard_paths(prefix: str | Path) -> tuple[Path, Path, Path]:
    """The .bin, .idx and .json of a shard; the suffix is added, so a prefix may hold dots."""
    return Path(f"{prefix}.bin"), Path(f"{prefix}.idx"), Path(f"{prefix}.json")


def dtype_for(vocab_size: int) -> str:
    """Megatron's choice (DType.optimal_dtype): 2 bytes per token below 65,500 ids, else 4."""
    return "uint16" if vocab_size < 65500 else "int32"


def fanal_version() -> str:
    """The installed version, or 0+unknown when the code runs from a folder that was never installed."""
    try:
        return version("fanal")
    except PackageNotFoundError:
        return "0+unknown"


def read_manifest(prefix: str | Path) -> ShardManifest:
    """Read `PREFIX.json` and check that its values agree with each other.

    Raises: ShardError.
    """
    path = shard_paths(prefix)[2]
    mend = (
        "give the PREFIX of .bin, .idx and .json without suffix; if the .json is bad or was never written, encode again"
    )
    manifest = read_record(ShardManifest, path, mend=mend, error=ShardError)
    highest = manifest.vocab_size - 1
    rules: list[tuple[str, bool, str]] = [
        ("format_version", manifest.format_version == FORMAT_VERSION, str(FORMAT_VERSION)),
        ("vocab_size", manifest.vocab_size >= 1, "at least 1"),
        (
            "dtype",
            manifest.dtype == dtype_for(manifest.vocab_size),
            f"{dtype_for(manifest.vocab_size)!r} by vocab_size",
        ),
        ("highest_token_id", 0 <= manifest.highest_token_id <= highest, f"0 to vocab_size - 1 = {highest}"),
        ("num_documents", manifest.num_documents >= 1, "at least 1"),
        (
            "num_tokens",
            manifest.num_tokens >= manifest.num_documents,
            f"at least num_documents, {manifest.num_documents}",
        ),
    ]
    for name in ("tokenizer_sha256", "idx_sha256", "bin_sha256"):
        rules.append((name, is_sha256(getattr(manifest, name)), "64 hexadecimal digits"))
    for name, holds, expected in rules:
        if not holds:
            raise ShardError(
                f"{path}: {name} is {getattr(manifest, name)!r}, expected {expected}; encode the shard again"
            )
    return manifest


def is_sha256(text: str) -> bool:
    """Whether the text is 64 lower-case hexadecimal digits."""
    return len(text) == 64 and set(text) <= set("0123456789abcdef")
