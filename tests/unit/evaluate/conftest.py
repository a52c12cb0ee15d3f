"""A run of one small checkpoint, and held-out text of two languages and domains, encoded with its tokenizer."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tokenizer.documents.column_fields import ColumnFields
from tokenizer.encoding.encode import encode

V1 = Path(__file__).parents[2] / "golden" / "formats" / "v1"
TEXTS = [
    ("en", "prose", "The lamp is on the table, and the table is in the house. " * 4),
    ("fr", "prose", "La lampe est sur la table."),
    ("en", "code", "def f(x):\n    return x + 1\n" * 3),
    ("fr", "prose", "Une maison, deux maisons, trois maisons. " * 3),
    (None, "code", "x = 3"),
]
DOMAINS = ("prose", "code")


@dataclass(frozen=True)
class Made:
    """The run, and the text that it holds out."""

    run_dir: Path
    tokenizer: Path
    held_out: Path
    """Folder with a shard for each domain, of its name."""

    @property
    def overrides(self) -> tuple[str, ...]:
        """Where the data lie."""
        train = "[" + ", ".join(f"{{prefix: {V1 / 'shards' / name}}}" for name in ("train-code", "train-prose")) + "]"
        return (
            f"data.tokenizer={self.tokenizer}",
            f"data.train={train}",
            "data.validation=[" + ", ".join(f"{{prefix: {self.held_out / domain}}}" for domain in DOMAINS) + "]",
        )


@pytest.fixture(scope="session")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a shard of TEXTS for each domain, with their languages as a column."""
    folder = tmp_path_factory.mktemp("held-out")
    for domain in DOMAINS:
        of_it = [(tag, text) for tag, one, text in TEXTS if one == domain]
        lines = [{"text": text, "domain": domain} | ({"language": tag} if tag else {}) for tag, text in of_it]
        (folder / f"{domain}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        encode(V1 / "tokenizer", [folder / f"{domain}.jsonl"], folder / domain, num_workers=1, columns=ColumnFields())
    return folder


@pytest.fixture
def made(encoded: Path, tmp_path: Path) -> Made:
    return Made(Path(shutil.copytree(V1 / "checkpoint", tmp_path / "run")), V1 / "tokenizer", encoded)
