"""Fast encoding of text to ids: gigatoken where it gives the oracle's very ids, else the oracle itself.

The oracle is SentencePiece, or `tokenizers` for an imported tokenizer.json (folder.py). gigatoken is young, so nothing rests on it
alone: when a tokenizer is trained or imported, and when another version of gigatoken meets
it, both encode every piece of the vocabulary; when an encoder opens, both encode a list of texts that tokenizers stumble
over; and in every run both encode a sample of the documents (`check`). A difference stops the run.
"""

import os
from collections.abc import Sequence
from importlib.metadata import version
from typing import Literal, Protocol

import numpy as np

from fanal.errors import UserError
from tokenizer.vocabulary.folder import TITLES, Tokenizer

RequestedEngine = Literal["auto", "gigatoken", "sentencepiece", "tokenizers"]
ENGINES: tuple[RequestedEngine, ...] = ("auto", "gigatoken", "sentencepiece", "tokenizers")
MAX_CACHE_BYTES = 192 << 20
"""Growth of the process at which gigatoken is restarted, in bytes: it remembers every word it has met."""
PROBES = (
    "<s>", "a<s>b</s><unk><pad>", "<0x0A><0x41>A", "\0a\0\0b", "a\r\nb\r\n\r", "\u2581x \u2581\u2581", "e\u0301 \u0300\u0300a",
    "👩‍👩‍👧‍👦 👍🏽 🇫🇷", "\n" * 7, "\t" * 7 + "\n \n\n  \n\t", " " * 37, " a  b   c ", "a" * 300, "=" * 301 + "-" * 77, "﷽ ﬁ Ⅳ ½",
    "\u00a0\u2003\u200b\ufeff\ufffd", "12345 67.8e9", "𝒳𝓎 \U0010ffff", "中文字符 かな 한국어 ไทย עברית", "\x7f\x80\x9f\u2028\u2029",
)  # fmt: skip

CLASSES = ("a", "B", "é", "中", "1", ".", "'s", "'LL", "_", " ", "  ", "\n", "\t", "\u00a0", "\u0301", "🙂")
"""Kinds of characters that the patterns of pre-tokenizers tell apart."""


class EngineError(UserError):
    """The fast engine cannot serve a tokenizer, or gave other ids than the oracle."""


class Engine(Protocol):
    """An encoder of text; `name` goes into the manifest."""

    name: str

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of each text, without BOS and EOS: integers [number of tokens] each."""
        ...

    def check(self, texts: Sequence[str]) -> str | None:
        """Describe where the ids of one of the texts differ from the oracle's; None if they do not."""
        ...


class OracleEngine:
    """The engine that defines the ids: the tokenizer's own library."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.name = f"{tokenizer.oracle} {version(tokenizer.oracle)}"
        self._tokenizer = tokenizer

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        return self._tokenizer.encode_batch(list(texts), num_threads=1)

    def check(self, texts: Sequence[str]) -> str | None:
        return None


class GigatokenEngine:
    """The fast engine. Raises: EngineError if gigatoken cannot read the model or differs on it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.name = f"gigatoken {version('gigatoken')}"
        self._tokenizer = tokenizer
        found = tokenizer.fast_json()
        if found is None:
            raise EngineError("gigatoken reads a tokenizer.json alone, and there is none")
        self._json = found
        self._start()
        texts = list(PROBES)
        if tokenizer.proved_engine != self.name:  # else the same program has given the right ids for these very files
            texts += [*in_texts_of(tokenizer.token_texts(), 256), *texts_of_classes()]
        if problem := self.check(texts):
            raise EngineError(problem)

    def _start(self) -> None:
        from gigatoken.gigatoken_rs import load_hf_json

        try:
            self._backend = load_hf_json(self._json)
        except (ValueError, RuntimeError) as problem:
            raise EngineError(f"gigatoken cannot read this tokenizer ({problem})") from None
        self._bytes_at_start = _resident_bytes()

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        ids = [self._encode_one(text) for text in texts]
        if _resident_bytes() - self._bytes_at_start > MAX_CACHE_BYTES:
            del self._backend
            self._start()
        return ids

    def _encode_one(self, text: str) -> np.ndarray:
        return self._backend.encode(self._tokenizer.for_fast(text))

    def check(self, texts: Sequence[str]) -> str | None:
        # One call for all texts: each call of SentencePiece's batch interface takes half a millisecond.
        for text, right in zip(texts, self._tokenizer.encode_batch(list(texts), num_threads=1), strict=True):
            ours = np.asarray(self._encode_one(text), dtype=np.int64)
            if not np.array_equal(ours, right):
                return self._difference(ours, right)
        return None

    def _difference(self, ours: np.ndarray, right: np.ndarray) -> str:
        both = min(len(ours), len(right))
        different = ours[:both] != right[:both]
        at = int(np.argmax(different)) if different.any() else both
        return (
            f"{self.name} gives {ours[at : at + 4].tolist()} where {TITLES[self._tokenizer.oracle]} gives "
            f"{right[at : at + 4].tolist()}, behind {self._tokenizer.decode(right[:at].tolist())[-40:]!r}"
        )


def open_engine(tokenizer: Tokenizer, requested: RequestedEngine = "auto") -> Engine:
    """Open the engine for a tokenizer; auto takes gigatoken where it agrees with the oracle on the probes.

    Raises: EngineError if gigatoken is asked for by name and does not, or a library that is not the tokenizer's.
    """
    if requested in TITLES and requested != tokenizer.oracle:
        raise EngineError(
            f"engine {requested!r} does not define the ids of {tokenizer.directory}; {tokenizer.oracle!r} or 'auto' works"
        )
    if requested == tokenizer.oracle:
        return OracleEngine(tokenizer)
    try:
        return GigatokenEngine(tokenizer)
    except (EngineError, ImportError) as problem:
        if requested == "gigatoken":
            raise EngineError(
                f"engine 'gigatoken' cannot encode with {tokenizer.directory}: {problem}; {tokenizer.oracle!r} or 'auto' works"
            ) from None
        return OracleEngine(tokenizer)


def in_texts_of(pieces: Sequence[str], size: int) -> list[str]:
    """Return every piece once, in texts of ``size`` pieces, with spaces between them in one text and without in the next."""
    groups = [pieces[start : start + size] for start in range(0, len(pieces), size)]
    return [("" if number % 2 else " ").join(group) for number, group in enumerate(groups)]


def texts_of_classes() -> list[str]:
    """Return texts in which any three kinds of characters follow each other: where two patterns differ, one of them does."""
    return ["".join(one + two + three for two in CLASSES for three in CLASSES) for one in CLASSES]


def _resident_bytes() -> int:
    with open("/proc/self/statm") as stream:  # noqa: PTH123  (once per block: Path costs more than the read)
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
