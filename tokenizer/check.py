"""How well a tokenizer fits some text: does decoding give the text back, and how many tokens does it take?"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenizer.documents import Document, DocumentReader
from tokenizer.encode import BATCH_BYTES, batches
from tokenizer.load import Tokenizer, load_tokenizer

NO_DOMAIN = "(none)"


@dataclass
class DomainReport:
    """Counts over the documents of one domain."""

    domain: str
    num_documents: int = 0
    num_bytes: int = 0
    """Text in UTF-8 bytes."""
    num_words: int = 0
    """Pieces between whitespace."""
    num_tokens: int = 0
    """Without BOS and EOS."""
    num_byte_tokens: int = 0
    """Tokens of byte fallback."""
    num_round_trip_failures: int = 0
    """Documents that decoding does not give back to the letter. A normalization other than identity makes some."""
    first_failure: str | None = None
    """File and line of the first of them, with the texts where they part."""

    @property
    def bytes_per_token(self) -> float:
        """Higher is shorter."""
        return self.num_bytes / self.num_tokens

    @property
    def fertility(self) -> float | None:
        """Tokens per word; None where there is no word."""
        return self.num_tokens / self.num_words if self.num_words else None

    @property
    def byte_fallback_share(self) -> float:
        """Share of the tokens that are byte fallback, 0 to 1."""
        return self.num_byte_tokens / self.num_tokens

    def as_dict(self) -> dict[str, Any]:
        """Counts and what follows from them, for JSON."""
        derived = ("bytes_per_token", "fertility", "byte_fallback_share")
        return asdict(self) | {name: getattr(self, name) for name in derived}


def check_tokenizer(
    tokenizer_dir: str | Path, inputs: Sequence[str | Path], text_field: str = "text"
) -> list[DomainReport]:
    """Encode and decode every document; one report per domain, in order of name.

    Raises: ValueError for a bad tokenizer or input.
    """
    tokenizer = load_tokenizer(tokenizer_dir)
    byte_ids = {i for i in range(tokenizer.vocab_size) if tokenizer.processor.IsByte(i)}
    reports: dict[str, DomainReport] = {}
    for batch in batches(DocumentReader(inputs, text_field), BATCH_BYTES):
        encoded = tokenizer.encode_batch([document.text for document in batch], num_threads=1)
        for document, ids in zip(batch, encoded, strict=True):
            domain = document.domain or NO_DOMAIN
            _count(reports.setdefault(domain, DomainReport(domain)), document, ids.tolist(), tokenizer, byte_ids)
    return [reports[domain] for domain in sorted(reports)]


def _count(report: DomainReport, document: Document, ids: list[int], tokenizer: Tokenizer, byte_ids: set[int]) -> None:
    report.num_documents += 1
    report.num_bytes += document.num_bytes
    report.num_words += len(document.text.split())
    report.num_tokens += len(ids)
    report.num_byte_tokens += sum(i in byte_ids for i in ids)
    decoded = tokenizer.decode(ids)
    if decoded != document.text:
        report.num_round_trip_failures += 1
        report.first_failure = report.first_failure or f"{document.place}: {first_difference(document.text, decoded)}"


def first_difference(text: str, decoded: str) -> str:
    """Where two different texts part, with the 20 characters of each from there on."""
    pairs = zip(text, decoded, strict=False)
    at = next((i for i, (left, right) in enumerate(pairs) if left != right), min(len(text), len(decoded)))
    return f"character {at}: {text[at : at + 20]!r} became {decoded[at : at + 20]!r}"
