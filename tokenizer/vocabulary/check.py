"""Check of a tokenizer on some text: does decoding give the text back, and how many tokens does it take?

Where the `tokenizers` library is installed, tokenizer.json is read with it and its ids are compared as well.
"""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fanal.plain_files import MAX_TOKENIZER_BYTES, read_plain
from tokenizer.documents.parse import Document, DocumentReader, batches
from tokenizer.vocabulary.folder import FAST_NAME, Tokenizer
from tokenizer.vocabulary.load import load_tokenizer
from tokenizer.vocabulary.sampling import language_of

BATCH_BYTES = 8 << 20
GroupBy = Literal["domain", "language"]
NO_LABEL = "(none)"


@dataclass
class GroupReport:
    """Counts over the documents of one domain or one language."""

    name: str
    """Domain or language; NO_LABEL for documents without one."""
    num_documents: int = 0
    num_bytes: int = 0
    """Size of the text in UTF-8 bytes."""
    num_words: int = 0
    """Number of pieces between whitespace."""
    num_tokens: int = 0
    """Number of tokens, without BOS and EOS."""
    num_byte_tokens: int = 0
    """Number of byte fallback tokens."""
    num_altered_documents: int = 0
    """Number of documents that the spec's normalization or remove_characters change before they are cut."""
    num_round_trip_failures: int = 0
    """Number of documents that decoding does not give back exactly, as they were after preparation."""
    first_failure: str | None = None
    """File and line of the first such document, with the texts where they differ."""
    num_fast_differences: int | None = None
    """Number of documents that tokenizer.json gives other ids; None if the `tokenizers` library is not installed."""

    @property
    def bytes_per_token(self) -> float | None:
        """UTF-8 bytes per token, higher is shorter; None where there is no token."""
        return self.num_bytes / self.num_tokens if self.num_tokens else None

    @property
    def fertility(self) -> float | None:
        """Tokens per word; None where there is no word."""
        return self.num_tokens / self.num_words if self.num_words else None

    @property
    def byte_fallback_share(self) -> float | None:
        """Share of the tokens that are byte fallback, 0 to 1; None where there is no token."""
        return self.num_byte_tokens / self.num_tokens if self.num_tokens else None

    def as_dict(self) -> dict[str, Any]:
        """Return the counts and what follows from them, for JSON."""
        derived = ("bytes_per_token", "fertility", "byte_fallback_share")
        return asdict(self) | {name: getattr(self, name) for name in derived}


def check_tokenizer(
    tokenizer_dir: str | Path, inputs: Sequence[str | Path], text_field: str = "text", by: GroupBy = "domain"
) -> list[GroupReport]:
    """Encode and decode every document; one report per domain or language, in order of name.

    Args: by says what a report is about; a document's language is its field `language`, else its domain.
    Raises: UserError for a bad tokenizer or input.
    """
    tokenizer = load_tokenizer(tokenizer_dir)
    fast_encode = fast_encoder(tokenizer)
    byte_ids = tokenizer.byte_ids()
    reports: dict[str, GroupReport] = {}
    labels = ("domain",) if by == "domain" else ("language", "domain")
    for batch in batches(DocumentReader(inputs, text_field, labels=labels), BATCH_BYTES):
        encoded = tokenizer.encode_batch([document.text for document in batch], num_threads=1)
        for document, array in zip(batch, encoded, strict=True):
            name = (document.domain if by == "domain" else language_of(document)) or NO_LABEL
            report = reports.setdefault(name, GroupReport(name))
            ids = array.tolist()
            _count(report, document, ids, tokenizer)
            report.num_byte_tokens += sum(i in byte_ids for i in ids)
            if fast_encode is not None:
                differs = fast_encode(document.text) != ids
                report.num_fast_differences = (report.num_fast_differences or 0) + differs
    return [reports[name] for name in sorted(reports)]


def fast_encoder(tokenizer: Tokenizer) -> Callable[[str], list[int]] | None:
    """Return a function from a text to the ids that tokenizer.json gives it; None if the `tokenizers` library is not
    installed, or where there is nothing else to compare these ids with."""
    if tokenizer.oracle == "tokenizers" or not (tokenizer.directory / FAST_NAME).is_file():
        return None
    if importlib.util.find_spec("tokenizers") is None:
        return None
    library = importlib.import_module("tokenizers")  # not a dependency of this room, so nothing imports it by name
    fast = library.Tokenizer.from_buffer(read_plain(tokenizer.directory / FAST_NAME, max_bytes=MAX_TOKENIZER_BYTES))
    return lambda text: fast.encode(text, add_special_tokens=False).ids


def _count(report: GroupReport, document: Document, ids: list[int], tokenizer: Tokenizer) -> None:
    report.num_documents += 1
    report.num_bytes += document.num_bytes
    report.num_words += len(document.text.split())
    report.num_tokens += len(ids)
    prepared = tokenizer.prepare(document.text)
    report.num_altered_documents += prepared != document.text
    decoded = tokenizer.decode(ids)
    if decoded != prepared:
        report.num_round_trip_failures += 1
        report.first_failure = report.first_failure or f"{document.place}: {first_difference(prepared, decoded)}"


def first_difference(text: str, decoded: str) -> str:
    """Describe where two different texts part, with the 20 characters of each from there on."""
    pairs = zip(text, decoded, strict=False)
    at = next((i for i, (left, right) in enumerate(pairs) if left != right), min(len(text), len(decoded)))
    return f"character {at}: {text[at : at + 20]!r} became {decoded[at : at + 20]!r}"
