"""Manifest of a shard, `PREFIX.json`: what the two data files hold, what they were made from, and their hashes.

It is written last, so a shard without one is unfinished. Every value a reader relies on is here, hence opening a shard
reads no token.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from fanal.errors import DamageError, UserError, user_path
from fanal.files import HASH_BLOCK_BYTES, InputFile
from fanal.records import has_own_hash, own_hash, read_json, record_in, sealed
from tokenizer.documents.folders import SHARD_COLUMNS, LeftOut

FORMAT_VERSION = 2
OWN_HASH = "manifest_sha256"
EXCLUDED_END, OVERLAP_END = ".excluded.json", ".overlap.json"
"""Ends of the names of JSON files beside a shard that are no manifests."""
SEARCH_END = ".search"
"""End of the name of a shard's search index."""


class ShardError(UserError):
    """A shard is not what its manifest says. The message names the path, what was found, what was expected and what to do."""


class DamagedShardError(DamageError):
    """A shard's bytes are not those that its manifest describes: nothing in the user's input is wrong."""


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """Options with which documents became tokens."""

    append_bos: bool
    """Whether each document starts with the tokenizer's BOS id."""
    append_eos: bool
    """Whether each document ends with the tokenizer's EOS id."""
    text_field: str | None
    """Field or column that was read; None for a shard that was adopted."""
    shuffle_seed: int | None = None
    """Seed of the order of the documents; None for the order of the input."""
    engine: str | None = None
    """Engine that turned text into ids, with its version; None for a shard that was adopted."""


@dataclass(frozen=True, kw_only=True)
class Exclusion:
    """One removal of documents (``exclude``): the shard they were in, how many left, and why. Which ones: PREFIX.excluded.json."""

    from_bin_sha256: str
    """Identity of the shard that they were removed from: its ``bin_sha256``."""
    from_idx_sha256: str
    num_documents: int
    num_tokens: int
    """Tokens of those documents, BOS and EOS included."""
    selected_by: tuple[str, ...]
    """The selections that named them, as options of the command; a document may be in several."""
    reason: str
    """Why they left, in the words of the user who removed them."""


@dataclass(frozen=True, kw_only=True)
class ShardManifest:
    """Content of `PREFIX.json`."""

    format_version: int
    """Version of the format: 2."""
    tokenizer_sha256: str
    """Hash of the tokenizer that gave the ids, 64 hexadecimal digits: SHA-256 of its tokenizer.model, or, of an imported one, its
    ``ids_sha256``."""
    vocab_size: int
    """Vocabulary size of that tokenizer: every id is in [0, vocab_size)."""
    dtype: str
    """Type of a token in the .bin: uint16 or int32."""
    num_documents: int
    num_tokens: int
    """Number of tokens, BOS and EOS included."""
    highest_token_id: int
    """Highest id that occurs."""
    idx_sha256: str
    bin_block_sha256: tuple[str, ...]
    """SHA-256 of each 64 MiB of the .bin, in order."""
    domain: str | None
    """Kind of text; None if the documents did not say."""
    licence: str | None
    """Licence identifier common to all documents; None if they did not say."""
    language: str | None
    """ISO 639 code; mul for several; None if the documents did not say."""
    source: str | None
    """Origin of the documents, in the words of the user who encoded them."""
    input_files: tuple[InputFile, ...] | None
    """Files that the documents came from; None where they were not read (``read_manifest``), never in the file."""
    options: EncodeOptions
    fanal_version: str
    """Version of the code that wrote the shard."""
    num_skipped: int = 0
    """Number of documents of the input that were left out since they could not be read."""
    part: str | None = None
    """I/N if this is one part of many, for `merge` to join; else None."""
    part_of: str | None = None
    """SHA-256 over what all parts must share: the inputs with their sizes, and every option that changes what is read."""
    order_sha256: str | None = None
    """SHA-256 of PREFIX.order, the shuffle keys of a part's documents; None if there is no such file."""
    has_other_ids: bool = False
    """Whether its ids are, as its user knows, those of another tokenizer than ``tokenizer_sha256``: of one that there is no folder
    of, such as an imported model's."""
    manifest_sha256: str | None = None
    """SHA-256 of everything else in this file (``own_hash``); None in a manifest of an earlier version."""
    num_left_out: int = 0
    """Number of files and folders in the folders of inputs that were not read."""
    left_out: tuple[LeftOut, ...] = ()
    """The first of them, each with the reason."""
    num_repeated_fields: int = 0
    """Number of documents whose JSON gives a field that was read more than once; the last one counts."""
    documents_sha256: str | None = None
    """SHA-256 of PREFIX.documents.parquet, what is known of each document; None if there is no such file."""
    documents_columns: tuple[str, ...] = ()
    """Names of its columns that hold something, in their order; empty if there is no such file."""
    exclusions: tuple[Exclusion, ...] = ()
    """Documents that were removed from the shards that this one was made from, the first removal first."""
    excluded_sha256: str | None = None
    """SHA-256 of PREFIX.excluded.json, which names each of them; None if none was removed."""

    @property
    def bin_sha256(self) -> str:
        """Hash that names all tokens: of a .bin up to 64 MiB its SHA-256, else the SHA-256 of its blocks' digests."""
        if len(self.bin_block_sha256) == 1:
            return self.bin_block_sha256[0]
        return hashlib.sha256(b"".join(map(bytes.fromhex, self.bin_block_sha256))).hexdigest()


def shard_paths(prefix: str | Path) -> tuple[Path, Path, Path]:
    """Return the .bin, .idx and .json of a shard; the suffix is added, so a prefix may hold dots."""
    return Path(f"{prefix}.bin"), Path(f"{prefix}.idx"), Path(f"{prefix}.json")


def prefix_of(name: str | Path) -> Path:
    """Return the prefix that a user means, who may have named one of a shard's files, as a shell's `*.json` does."""
    path = Path(name)
    end = SHARD_COLUMNS if path.name.endswith(SHARD_COLUMNS) else path.suffix
    with user_path(path):
        is_of_shard = end in (".bin", ".idx", ".json", SEARCH_END, SHARD_COLUMNS) and path.is_file()
    return path.with_name(path.name.removesuffix(end)) if is_of_shard else path


def prefixes_of(names: Sequence[str | Path]) -> list[Path]:
    """Return the prefixes that a user means (``prefix_of``), without what `*.json` names beside manifests: lists of removed
    documents and findings of overlap. Such a name alone stands for its shard."""
    found: list[Path] = []
    beside: list[Path] = []
    for name in names:
        end = next((end for end in (EXCLUDED_END, OVERLAP_END) if str(name).endswith(end)), None)
        if end is None or shard_paths(Path(name).with_suffix(""))[0].exists():
            found.append(prefix_of(name))
        else:
            beside.append(Path(str(name).removesuffix(end)))
    return found + [prefix for prefix in dict.fromkeys(beside) if prefix not in found]


def order_path(prefix: str | Path) -> Path:
    """Return the path of a part's shuffle keys: uint64, little-endian, one per document."""
    return Path(f"{prefix}.order")


def excluded_path(prefix: str | Path) -> Path:
    """Return the path of the list of the documents that were removed."""
    return Path(f"{prefix}{EXCLUDED_END}")


def documents_path(prefix: str | Path) -> Path:
    """Return the path of what is known of each document: origin, URL host, licence, ... (document_columns.py)."""
    return Path(f"{prefix}{SHARD_COLUMNS}")


DTYPES = {"uint16": np.dtype("<u2"), "int32": np.dtype("<i4")}
"""Types that a token may have in the .bin, by their names in the manifest."""


def dtype_for(vocab_size: int) -> str:
    """Return the type of a token that Megatron chooses (DType.optimal_dtype): 2 bytes below 65,500 ids, else 4."""
    return "uint16" if vocab_size < 65500 else "int32"


def fanal_version() -> str:
    """Return the installed version, or 0+unknown when the code runs from a folder that was never installed."""
    try:
        return version("fanal")
    except PackageNotFoundError:
        return "0+unknown"


def read_manifest(prefix: str | Path, *, may_be_empty: bool = False, with_inputs: bool = True) -> ShardManifest:
    """Read `PREFIX.json` and check that its values agree with each other.

    Args: may_be_empty lets a part pass that got no document; without with_inputs, input_files is None, whose records take most
        of the time where they are many.
    Raises: ShardError; DamagedShardError if its content is not what its own hash says.
    """
    path = shard_paths(prefix)[2]
    remedy = (
        "give the PREFIX of .bin, .idx and .json without suffix; a shard that Megatron wrote gets its .json from "
        "`fanal tokenizer adopt`; else the .json was never written or is bad: encode again"
    )
    content = read_json(path, remedy=remedy, error=ShardError)
    _check_own_hash(content, path)  # first: a changed byte may look like anything
    passed_over = not with_inputs and isinstance(content, dict) and content.get(OWN_HASH) is not None
    if passed_over:  # its hash says that the list is as it was written
        content = content | {"input_files": None}
    manifest = record_in(ShardManifest, content, path, remedy=remedy, error=ShardError)
    if manifest.input_files is None and not passed_over:
        raise ShardError(f"{path}: input_files is null, expected an array; {remedy}")
    for name, holds, expected in _rules(manifest, may_be_empty=may_be_empty):
        if not holds:
            raise ShardError(
                f"{path}: {name} is {getattr(manifest, name)!r}, expected {expected}; encode the shard again"
            )
    return manifest


def with_own_hash(manifest: ShardManifest) -> ShardManifest:
    """Return a manifest, complete but for its own hash, with that hash: the last act of whoever makes one."""
    return sealed(manifest, OWN_HASH)


def _check_own_hash(content: object, path: Path) -> None:
    """Raises: DamagedShardError. A manifest without a hash, of an earlier version, passes."""
    stated = content.get(OWN_HASH) if isinstance(content, dict) else None
    if isinstance(content, dict) and stated is not None and not has_own_hash(content, OWN_HASH):
        found = own_hash(content, OWN_HASH)
        raise DamagedShardError(
            f"{path} has content with sha256 {found}, expected {stated} by its {OWN_HASH}: it changed after it was written; copy "
            "it again from an intact copy, or encode the shard again (a change on purpose takes that key out)"
        )


def _rules(manifest: ShardManifest, *, may_be_empty: bool) -> list[tuple[str, bool, str]]:
    """Return (field, whether its rule holds, what the field should be) for every rule of a manifest."""
    itemsize = DTYPES[manifest.dtype].itemsize if manifest.dtype in DTYPES else 0
    empty = may_be_empty and manifest.part is not None and manifest.num_documents == 0
    lowest, highest = (-1 if empty else 0), min(manifest.vocab_size - 1, 2 ** (8 * itemsize) - 1)
    num_blocks = -(-manifest.num_tokens * itemsize // HASH_BLOCK_BYTES)
    hashes = ("tokenizer_sha256", "idx_sha256")
    return [
        ("format_version", manifest.format_version == FORMAT_VERSION, str(FORMAT_VERSION)),
        ("vocab_size", manifest.vocab_size >= 1, "at least 1"),
        ("dtype", itemsize > 0, " or ".join(DTYPES)),
        ("highest_token_id", lowest <= manifest.highest_token_id <= highest, f"0 to vocab_size - 1 = {highest}"),
        ("num_documents", empty or manifest.num_documents >= 1, "at least 1"),
        ("num_tokens", empty or manifest.num_tokens >= 1, "at least 1"),
        *((name, is_sha256(getattr(manifest, name)), "64 hexadecimal digits") for name in hashes),
        (
            "bin_block_sha256",
            len(manifest.bin_block_sha256) == num_blocks and all(map(is_sha256, manifest.bin_block_sha256)),
            f"{num_blocks} times 64 hexadecimal digits, one for each 64 MiB",
        ),
        (
            "documents_sha256",
            manifest.documents_sha256 is None or is_sha256(manifest.documents_sha256),
            "64 hexadecimal digits, or null",
        ),
    ]


def is_sha256(text: str) -> bool:
    """Whether the text is 64 lower-case hexadecimal digits."""
    return len(text) == 64 and set(text) <= set("0123456789abcdef")
