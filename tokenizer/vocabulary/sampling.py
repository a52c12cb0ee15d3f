"""Choice of the documents a tokenizer is trained on, so that every language has its share of the characters.

The inputs are read twice, one document in memory at a time: first to count characters per language, then to choose.
Going through a language of A characters of which R are wanted, a document is taken with probability R / A, both counted
from there on; one document is cut where that makes the number exact. So every language gives its number of characters,
from all of its text, and the choice depends on the seed, the language and its documents alone (after Knuth, TAOCP 2, 3.4.2,
algorithm S).
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fanal.errors import UserError
from tokenizer.documents.parse import Document
from tokenizer.vocabulary.spec import TokenizerSpec

ALL_TEXT = "(all)"


@dataclass(frozen=True, kw_only=True)
class LanguageSample:
    """Text that one language gave to the training, in characters as the spec prepares them."""

    language: str
    num_documents: int
    """Number of documents taken, one that was cut included."""
    num_characters: int
    """Number of characters taken."""
    num_available_characters: int
    """Number of characters in the inputs."""


def language_of(document: Document) -> str | None:
    """Return the document's language, or its domain where no language is given."""
    return document.language or document.domain


def count_characters(documents: Iterable[Document], spec: TokenizerSpec) -> dict[str, int]:
    """Count prepared characters by language of the spec, in the spec's order; under ALL_TEXT if it names none.

    Raises: UserError for a document of another language or of none, and for a language without text.
    """
    counts = dict.fromkeys(spec.languages or [ALL_TEXT], 0)
    for document in documents:
        counts[_group(document, spec)] += len(spec.prepare(document.text))
    for language, count in counts.items():
        if not count:
            raise UserError(
                f"languages names {language!r}, but the input has no text of it; add such documents (field "
                "'language', else 'domain'), or leave it out and let the other shares add up to 1"
            )
    return counts


def wanted_characters(available: dict[str, int], spec: TokenizerSpec) -> dict[str, int]:
    """Return how many characters to take of each language.

    Raises: UserError naming the largest training_characters that works if a language has less than its share.
    """
    shares = spec.languages or {ALL_TEXT: 1.0}
    scarcest = min(shares, key=lambda language: available[language] / shares[language])
    largest = int(available[scarcest] / shares[scarcest])
    total = largest if spec.training_characters is None else spec.training_characters
    if total > largest:
        raise UserError(
            f"training_characters ({total}) wants {round(total * shares[scarcest])} characters of {scarcest!r}, a share "
            f"of {shares[scarcest]}, but the input has {available[scarcest]}; training_characters: {largest} works"
        )
    return {language: min(available[language], max(1, round(total * share))) for language, share in shares.items()}


class LanguageSampler:
    """Sampler of documents that come in the order in which they were counted; see the top of the file."""

    def __init__(self, spec: TokenizerSpec, available: dict[str, int]) -> None:
        self.spec = spec
        self.available = available
        self.wanted = wanted_characters(available, spec)
        self.num_documents = dict.fromkeys(available, 0)
        self.characters_left = dict(available)
        self.wanted_left = dict(self.wanted)
        self.generators = {language: random.Random(f"{spec.seed}/{language}") for language in available}

    def choose(self, documents: Iterable[Document]) -> Iterator[str]:
        """Yield the prepared texts to train on."""
        for document in documents:
            language = _group(document, self.spec)
            text = self.spec.prepare(document.text)
            wanted, left = self.wanted_left[language], self.characters_left[language]
            left_behind_it = left - len(text)
            self.characters_left[language] = left_behind_it
            if self.generators[language].random() * left < wanted:
                text = text[:wanted]
            else:
                # Skipped, but for what the documents after it are too few to give.
                text = text[len(text) - max(0, wanted - left_behind_it) :]
            if text:
                self.wanted_left[language] -= len(text)
                self.num_documents[language] += 1
                yield text

    def samples(self) -> tuple[LanguageSample, ...]:
        """Return what was taken of each language."""
        return tuple(
            LanguageSample(
                language=language,
                num_documents=self.num_documents[language],
                num_characters=self.wanted[language] - self.wanted_left[language],
                num_available_characters=available,
            )
            for language, available in self.available.items()
        )


def _group(document: Document, spec: TokenizerSpec) -> str:
    if not spec.languages:
        return ALL_TEXT
    language = language_of(document)
    if language not in spec.languages:
        found = "neither a language nor a domain" if language is None else f"language {language!r}"
        raise UserError(
            f"{document.place}: the document has {found}, but languages names {', '.join(spec.languages)}; "
            "give it a share, label the document, or leave the file out"
        )
    return language
