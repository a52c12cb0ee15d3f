"""One small corpus and one small tokenizer for the whole folder; both are read only."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tokenizer.documents.compressed import HashedFile
from tokenizer.documents.sample_corpus import make_sample_corpus
from tokenizer.vocabulary.spec import TokenizerSpec
from tokenizer.vocabulary.train import train_tokenizer

WriteDocuments = Callable[..., Path]


@pytest.fixture(scope="session")
def write_documents() -> WriteDocuments:
    """Writes a jsonl file of texts (or of whole objects) and returns its path."""

    def write(path: Path, documents: Sequence[str | dict[str, Any]]) -> Path:
        rows = [{"text": d, "domain": "prose", "licence": "CC0-1.0"} if isinstance(d, str) else d for d in documents]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("corpus")
    make_sample_corpus(directory, max_bytes_per_domain=1_000_000)
    return directory


@pytest.fixture(scope="session")
def tokenizer_dir(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer") / "small"
    spec = TokenizerSpec(vocab_size=600, user_defined_symbols=["\n", "\n\n", "\t", "    "], reserved_tokens=["<turn>"])
    train_tokenizer(spec, [corpus / "train" / "code.jsonl", corpus / "train" / "prose.jsonl"], directory)
    return directory


@pytest.fixture
def failing_input(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes input files fail behind the first kilobyte, as a bad disk does: with an error that names no file."""
    start = HashedFile.__init__

    def fail(error: BaseException) -> None:
        class FailingFile(io.FileIO):
            def read(self, size: int | None = -1, /) -> bytes:
                if self.tell():
                    raise error
                return super().read(size) or b""

        def init(self: HashedFile, path: Path, **keywords: int) -> None:
            start(self, path, **keywords)
            self._file = FailingFile(path)

        monkeypatch.setattr(HashedFile, "__init__", init)
        monkeypatch.setattr("tokenizer.documents.blocks.BLOCK_BYTES", 1000)

    return fail
