"""``origin.json`` of an imported checkpoint: which files it was made of, and ``origin/``, copies of those that are no weights.

They say what the checkpoint itself cannot: its tokenizer is the origin's, and none of our folders.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pretrain.checkpoint.manifest import DamagedCheckpointError, FileEntry, read_small_file

ORIGIN, ORIGIN_FILES = "origin.json", "origin"
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
KEPT_FILES = (*TOKENIZER_FILES, "generation_config.json")
"""Those that are copied into the checkpoint, where they are there."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where an imported checkpoint comes from."""

    name: str
    """Of the folder, without the path to it."""
    files: tuple[FileEntry, ...]
    """Everything that was read."""
    config: dict[str, Any]
    """``config.json`` as it was."""

    @property
    def tokenizer_sha256(self) -> dict[str, str]:
        """The hash of each file that describes the tokenizer. A shard's tokenizer is known by that of tokenizer.model."""
        return {entry.path: entry.sha256 for entry in self.files if entry.path in TOKENIZER_FILES}


def origin_text(*, name: str, files: Iterable[FileEntry], config: dict[str, Any]) -> str:
    """The content of ``origin.json``."""
    origin = Origin(name=name, files=tuple(sorted(files, key=lambda entry: entry.path)), config=config)
    content = {
        "format_version": FORMAT_VERSION,
        "kind": "huggingface",
        "name": origin.name,
        "files": [asdict(entry) for entry in origin.files],
        "tokenizer_sha256": origin.tokenizer_sha256,
        "config": origin.config,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def read_origin(checkpoint: Path) -> Origin | None:
    """Where a checkpoint was imported from; None for one that was trained.

    Raises: DamagedCheckpointError if its ``origin.json`` is none.
    """
    path = checkpoint / ORIGIN
    if not path.exists():
        return None
    try:
        fields = json.loads(read_small_file(path))
        if fields["format_version"] != FORMAT_VERSION or fields["kind"] != "huggingface":
            raise ValueError(f"it is of version {fields['format_version']} and kind {fields['kind']}")
        files = tuple(FileEntry(**entry) for entry in fields["files"])
        return Origin(name=str(fields["name"]), files=files, config=dict(fields["config"]))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedCheckpointError(f"{path} is no record of an import ({type(error).__name__}: {error})") from None
