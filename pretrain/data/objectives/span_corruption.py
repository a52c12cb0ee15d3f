"""Span corruption: sentinels stand for some spans of a document, and behind it each sentinel is followed by its span.

    text     a b c d e f g h i j k l m       (spans: c d, and i)
    becomes  a b S0 e f g h S1 S0 c d S1 i   without j k l m, as many tokens as there are sentinels

The decoder is causal: it reads the text with its gaps, then writes what is missing. The sentinels take the places of the last
tokens of the text, so that every document stays where it is in its sample, and as long as it is.
Source: Raffel et al., T5, 2020, arXiv:1910.10683, section 3.1.4; Tay et al., UL2, 2022, arXiv:2205.05131.
"""

from dataclasses import dataclass

import numpy as np

from pretrain.config.derive import num_spans
from pretrain.config.schema import SpanCorruptionConfig
from pretrain.data.objectives.pieces import Chance, Words, pieces_taken
from pretrain.data.objectives.samples import Samples

FIRST_WORD = 4
"""Word of a piece from which on its spans are drawn."""


@dataclass(frozen=True, kw_only=True)
class SpanCorruption:
    """Corrupt the pieces that the chance takes, if they have four tokens at least."""

    chance: Chance
    config: SpanCorruptionConfig
    sentinel_ids: np.ndarray
    """int64 [num_sentinels]."""
    control: np.ndarray
    """Whether an id stands for no text: bool [vocab_size]."""

    def apply(self, samples: Samples) -> None:
        """See the class."""
        for piece in pieces_taken(samples, self.chance, self.control, self.sentinel_ids):
            text = samples.tokens[piece.row, piece.body]
            if not num_spans(self.config, len(text)):
                continue
            inputs, targets = self._corrupted(text.astype(np.int64), piece.words)
            text[: len(inputs)], text[len(inputs) :] = inputs, targets
            if not self.config.loss_on_inputs:
                first = piece.body.start
                samples.counted[piece.row, max(0, first - 1) : first - 1 + len(inputs)] = False

    def _corrupted(self, text: np.ndarray, words: Words) -> tuple[np.ndarray, np.ndarray]:
        """The text with its gaps, and the spans, each behind its sentinel: together as long as the text."""
        spans = num_spans(self.config, len(text))
        kept = text[: len(text) - 2 * spans]
        noise = min(max(int(len(kept) * self.config.noise_density + 0.5), spans), len(kept) - spans)
        drawn = words(FIRST_WORD, len(kept) - 2)
        noise_lengths = composition(noise, spans, drawn[: noise - 1])
        clean_lengths = composition(len(kept) - noise, spans, drawn[noise - 1 :])
        inputs, targets, at = [], [], 0
        for sentinel, clean, masked in zip(self.sentinel_ids.tolist(), clean_lengths, noise_lengths, strict=False):
            inputs += [kept[at : at + clean], [sentinel]]
            targets += [[sentinel], kept[at + clean : at + clean + masked]]
            at += clean + masked
        return np.concatenate(inputs), np.concatenate(targets)

    def restored(self, text: np.ndarray) -> np.ndarray:
        """The text that a corrupted one was, without the tokens that it lost at its end, two for each span."""
        marks = np.flatnonzero(np.isin(text, self.sentinel_ids))
        spans = len(marks) // 2
        ends = [-1, *marks[:spans].tolist()]
        cuts = [*marks[spans:].tolist(), len(text)]
        parts = []
        for number in range(spans):
            parts += [text[ends[number] + 1 : ends[number + 1]], text[cuts[number] + 1 : cuts[number + 1]]]
        return np.concatenate(parts)


def composition(total: int, parts: int, words: np.ndarray) -> list[int]:
    """Cut a length into so many parts of at least 1: at the gaps with the smallest words, of equal ones the first.

    Args: words: of each gap, uint64 [total - 1].
    """
    assert len(words) == total - 1 and 1 <= parts <= total, f"{total} in {parts} parts has {total - 1} gaps"
    cuts = np.sort(np.argsort(words, kind="stable")[: parts - 1]) + 1
    return np.diff([0, *cuts.tolist(), total]).tolist()
