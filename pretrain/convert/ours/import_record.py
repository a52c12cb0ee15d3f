"""``import.json`` of an imported checkpoint names the files it was made from; ``imported/`` holds copies of those without weights.

They record what the checkpoint itself cannot: its tokenizer is that of the folder it comes from, and not one of ours.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fanal.reason import reason
from fanal.records import MisfitError, record_of
from fanal.run_folder import IMPORTED_FILES as IMPORTED_FILES
from pretrain.checkpoint.disk.manifest import DamagedCheckpointError, read_small_file
from pretrain.convert.ours.published import PublishedFile

IMPORT = "import.json"
FORMAT_VERSION = 1
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
"""Files by which a Hugging Face folder describes its tokenizer."""
TOKENIZERS = frozenset({"tokenizer.json", "tokenizer.model"})
"""Files that are a tokenizer by themselves; the others describe one."""
GENERATION_CONFIG = "generation_config.json"
KEPT_FILES = (*TOKENIZER_FILES, GENERATION_CONFIG)
"""Files that are copied into the checkpoint if the folder has them."""


@dataclass(frozen=True, kw_only=True)
class ImportRecord:
    """Record of the folder that a checkpoint was imported from."""

    name: str
    """Name of the folder, without the path to it."""
    files: tuple[PublishedFile, ...]
    """Every file that was read."""
    config: dict[str, Any]
    """Content of ``config.json``, unchanged."""
    has_proved_tokenizer: bool = False
    """Whether the folder was an export whose certificate says so. Nothing is claimed of an import of an earlier version."""

    @property
    def tokenizer_sha256(self) -> dict[str, str]:
        """The hash of each file that describes the tokenizer. A shard identifies its tokenizer by the hash of tokenizer.model."""
        return {entry.path: entry.sha256 for entry in self.files if entry.path in TOKENIZER_FILES}


def import_text(
    *, name: str, files: Iterable[PublishedFile], config: dict[str, Any], has_proved_tokenizer: bool = False
) -> str:
    """Return the content of ``import.json``."""
    record = ImportRecord(name=name, files=tuple(sorted(files, key=lambda entry: entry.path)), config=config)
    content = {
        "format_version": FORMAT_VERSION,
        "kind": "huggingface",
        "name": record.name,
        "has_proved_tokenizer": has_proved_tokenizer,
        "files": [asdict(entry) for entry in record.files],
        "tokenizer_sha256": record.tokenizer_sha256,
        "config": record.config,
    }
    return json.dumps(content, indent=1) + "\n"  # in ASCII: a name may hold bytes that are not UTF-8


def read_import(checkpoint: Path) -> ImportRecord | None:
    """Read where a checkpoint was imported from; None for one that was trained.

    Raises: DamagedCheckpointError if its ``import.json`` is not valid.
    """
    path = checkpoint / IMPORT
    if not path.exists():
        return None
    try:
        fields = json.loads(read_small_file(path))
        if fields["format_version"] != FORMAT_VERSION or fields["kind"] != "huggingface":
            raise MisfitError(
                f"version {fields['format_version']} and kind {fields['kind']}, expected {FORMAT_VERSION} and huggingface"
            )
        files = tuple(record_of(PublishedFile, entry) for entry in fields["files"])
        return ImportRecord(
            name=str(fields["name"]),
            files=files,
            config=dict(fields["config"]),
            has_proved_tokenizer=fields.get("has_proved_tokenizer") is True,
        )
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedCheckpointError(
            f"{path} is not the record of an import ({reason(error)}); import the folder again"
        ) from None
