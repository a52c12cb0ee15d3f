"""Prove that the exported tokenizer gives the ids that were trained on, over documents of the shards and adversarial texts.

One that was imported is compared over its whole vocabulary too: `transformers` reads the original files by rules of its own,
a class for a model's type among them, and an export that it reads differently is refused.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.convert.ours.source import ExportSource
from pretrain.convert.theirs.model import CannotLoadError, in_one_line, transformers_module
from pretrain.convert.theirs.write_config import exported_vocab_size
from tokenizer.shards.shard import Shard
from tokenizer.vocabulary.engine import in_texts_of, texts_of_classes
from tokenizer.vocabulary.folder import TITLES, Tokenizer

DOCUMENTS_PER_SHARD = 20
MAX_DOCUMENT_TOKENS = 20_000
"""Tokens compared of each document, at most."""
ADVERSARIAL = (
    "", " ", "  two in front", "two behind  ", "\n", "\n\n\n\t\t", "a\r\nb\rc", "tab\tand\u00a0no-break\u2003em space",
    "<s>", "</s>", "<unk>", "<pad>", "text <s> in </s> text<pad>", "<0x41><0xFF>", "\u2581", "a\u2581b \u2581 c",
    "0123456789", "3.14159, 1,000,000 and 1e-9", "a" * 1000, "ab" * 500, " " * 100, "e\u0301 \u00e9 \u1e9b\u0323 \ufb01 \u00b2",
    "\u0915\u094d\u0937\u093f", "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u05e2\u05d1\u05e8\u05d9\u05ea", "日本語と中文、한국어",
    "👩\u200d👩\u200d👧\u200d👦 🏳\ufe0f\u200d🌈 🇫🇷", "\ufeffbyte order mark", "\u0000nul\u0000", "\ufffd\u200b\u2028\u2029",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \U0001f9ff", "Straße İstanbul ǅ ﷺ", "def f(x):\n    return {'a': [x, *y]}  # ok\n", "l'été, l’été; «où?»",
)  # fmt: skip
"""Texts that tokenizers get wrong: spaces, special names in text, bytes, marks that combine, scripts, emoji."""


VOCABULARY_TEXT, NAMES_TEXT = 256, 16
"""Tokens, and names of control tokens, in a text of an imported tokenizer's own."""
PLAIN = "The lamp at the stern"
"""A text that every tokenizer gets right."""


@dataclass(frozen=True, kw_only=True)
class TokenizerFigures:
    """Figures of the comparison between the exported tokenizer and its oracle."""

    oracle: str
    """``SentencePiece``, ``tokenizers`` for one that was imported, or ``none`` where nothing says whose ids a model knows."""
    num_documents: int
    """Number of documents of the training shards."""
    num_tokens: int
    """Number of tokens in these documents."""
    num_documents_equal_to_shard: int
    """Number of documents that get the shard's ids. A text that decoding does not give back, such as one with U+2581, is not."""
    num_texts: int
    """Number of adversarial texts, those that hold the vocabulary of an imported one among them."""
    num_different: int
    first_difference: str | None
    """The first text that differs, and how; None if every text agrees."""

    @property
    def is_same(self) -> bool:
        """Whether every text got the oracle's ids, and at least one document those of the shard."""
        any_equal = self.num_documents_equal_to_shard > 0 or self.num_documents == 0
        return self.num_different == 0 and any_equal


def prove_tokenizer(folder: Path, source: ExportSource) -> TokenizerFigures:
    """Load the exported tokenizer with AutoTokenizer and compare its ids, and its decoding, with its oracle's.

    An import's own tokenizer must load and give ids of the model; there is nothing to compare them with.
    Raises: CannotLoadError.
    """
    tokenizer, oracle = source.tokenizer, source.tokenizer.oracle
    theirs = _load(folder, source) if tokenizer.is_there else None
    if theirs is None or oracle is None:
        return TokenizerFigures(
            oracle="none", num_documents=0, num_tokens=0, num_documents_equal_to_shard=0, num_texts=0, num_different=0,
            first_difference=None,
        )  # fmt: skip
    differences: list[str] = []
    num_documents = num_tokens = num_equal = 0
    for where, ids in _documents(source):
        text = oracle.decode(ids)
        found = _compare(where, text, theirs, oracle, source, differences)
        num_documents, num_tokens, num_equal = num_documents + 1, num_tokens + len(ids), num_equal + (found == ids)
    texts = [*ADVERSARIAL, *(_own_texts(oracle) if tokenizer.has_original_files else ())]
    for text in texts:
        _compare(f"{text[:40]!r}", text, theirs, oracle, source, differences)
    differences += _differences_of_names(theirs, oracle)
    if num_documents and not num_equal and not differences:
        differences.append("no document of the training shards gets the ids that it has in its shard")
    return TokenizerFigures(
        oracle=TITLES[oracle.oracle],
        num_documents=num_documents,
        num_tokens=num_tokens,
        num_documents_equal_to_shard=num_equal,
        num_texts=len(texts),
        num_different=len(differences),
        first_difference=differences[0] if differences else None,
    )


def _load(folder: Path, source: ExportSource) -> Any:
    """Load the exported tokenizer as a user does, and have it encode a text."""
    try:
        theirs = transformers_module().AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        ids = theirs(PLAIN)["input_ids"]
    except Exception as error:
        raise CannotLoadError(f"transformers cannot load the tokenizer: {in_one_line(error)}") from None
    rows = exported_vocab_size(source)
    if not ids or not all(type(token) is int and 0 <= token < rows for token in ids):
        raise CannotLoadError(
            f"the tokenizer, as transformers loads it, gives {PLAIN!r} the ids {ids}; the model has 0 to {rows - 1}"
        )
    return theirs


def _own_texts(oracle: Tokenizer) -> list[str]:
    """Return texts that hold every token of a vocabulary, every name of a control token, and characters of all kinds in a row."""
    names = [f"a{oracle.piece(token)} b" for token in oracle.control_ids]
    vocabulary = in_texts_of(oracle.token_texts(), VOCABULARY_TEXT)
    return [*vocabulary, *in_texts_of(names, NAMES_TEXT), *texts_of_classes()]


def _compare(
    where: str, text: str, theirs: Any, oracle: Tokenizer, source: ExportSource, differences: list[str]
) -> list[int]:
    """Return the exported tokenizer's ids of a text, and append any difference to ``differences``.

    Names of special tokens are read as text, as in training, and where there are none so must they be without being told. Some
    models make a special token of its name even so (Unigram): what `transformers` cannot read as text is not compared.
    """
    tokenizer, special = source.tokenizer, {*oracle.control_ids, *(() if oracle.unk_id is None else (oracle.unk_id,))}
    (expected,) = (ids.tolist() for ids in oracle.encode_batch([text], num_threads=1))
    found = theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    with_special = theirs(text, split_special_tokens=True)["input_ids"]
    has_names = any(oracle.piece(token) in text for token in special) or any(
        piece in text for piece in theirs.all_special_tokens
    )
    if has_names and tokenizer.has_original_files and not special.isdisjoint(found):
        return found
    untold = found if has_names else theirs(text, add_special_tokens=False)["input_ids"]
    front = [tokenizer.bos_id] if tokenizer.adds_bos else []
    if tokenizer.has_original_files:  # some put a token behind each text as well
        with_special = with_special[: len(front) + len(expected)]
    if found != expected or untold != expected:
        ids = found if found != expected else untold
        at = next(
            (n for n, (a, b) in enumerate(zip(ids, expected, strict=False)) if a != b), min(len(ids), len(expected))
        )
        differences.append(
            f"{where}: token {at} is {ids[at : at + 1]}, expected {expected[at : at + 1]} ({len(ids)} and {len(expected)} "
            "in all)"
        )
    elif with_special != front + expected:
        differences.append(
            f"{where}: with special tokens it starts with {with_special[:2]}, expected {(front + expected)[:2]}"
        )
    elif theirs.decode(found, clean_up_tokenization_spaces=False) != oracle.decode(expected):
        differences.append(f"{where}: its ids decode to a different text")
    return found


def _differences_of_names(theirs: Any, oracle: Tokenizer) -> Iterator[str]:
    """Yield control pieces that no chat template could say, or that decode to another text than their name."""
    for token in oracle.control_ids:
        piece = oracle.piece(token)
        if theirs(f"a{piece}b", add_special_tokens=False)["input_ids"].count(token) != 1:
            yield f"the special token {piece!r}: a chat template that writes its name does not get its id, {token}"
        elif theirs.decode([token]) != piece or theirs.decode([token], skip_special_tokens=True) != "":
            yield (
                f"the special token {piece!r}: its id decodes to {theirs.decode([token])!r}, and to "
                f"{theirs.decode([token], skip_special_tokens=True)!r} where special tokens are left out"
            )


def _documents(source: ExportSource) -> Iterator[tuple[str, list[int]]]:
    """Yield (name, ids without BOS and EOS) of documents spread over every training shard."""
    for shard_source in source.sources.train if source.sources is not None else ():
        shard = shard_source.shard
        numbers = np.unique(np.linspace(0, shard.num_documents - 1, DOCUMENTS_PER_SHARD).round().astype(np.int64))
        for number in numbers.tolist():
            ids = _text_ids(shard, number)
            if len(ids) <= MAX_DOCUMENT_TOKENS:
                yield f"document {number} of {shard.prefix.name}", ids
            else:
                yield f"the start of document {number} of {shard.prefix.name}", ids[:MAX_DOCUMENT_TOKENS]


def _text_ids(shard: Shard, number: int) -> list[int]:
    ids, options = shard.document(number).tolist(), shard.manifest.options
    return ids[1 if options.append_bos else 0 : len(ids) - 1 if options.append_eos else len(ids)]
