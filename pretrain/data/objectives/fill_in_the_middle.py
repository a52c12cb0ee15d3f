"""Fill-in-the-middle: a document is cut at two places, and its middle follows behind both ends.

    PSM   PREFIX prefix SUFFIX suffix MIDDLE middle
    SPM   PREFIX SUFFIX suffix MIDDLE prefix middle

The three marks take the places of the last three tokens of the text, so that every document stays where it is in its sample, and as
long as it is. Cuts lie between tokens: characters are not in the shards.
Source: Bavarian et al., "Efficient Training of Language Models to Fill in the Middle", 2022, arXiv:2207.14255 (PSM, and the second
variant of SPM); on tokens, in documents of a sample: Allal et al., SantaCoder, 2023, arXiv:2301.03988.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from pretrain.data.objectives.pieces import Chance, pieces_taken
from pretrain.data.objectives.samples import Samples

NUM_MARKS = 3


@dataclass(frozen=True, kw_only=True)
class FillInTheMiddle:
    """Rearrange the pieces that the chance takes, if they have more than three tokens."""

    chance: Chance
    spm_rate: Fraction
    prefix_id: int
    suffix_id: int
    middle_id: int
    control: np.ndarray
    """Whether an id stands for no text: bool [vocab_size]."""

    def apply(self, samples: Samples) -> None:
        """See the class."""
        marks = np.array([self.prefix_id, self.suffix_id, self.middle_id])
        for piece in pieces_taken(samples, self.chance, self.control, marks):
            text = samples.tokens[piece.row, piece.body]
            if len(text) > NUM_MARKS:
                text[:] = self._rearranged(text.astype(np.int64), piece.words(1, 3).tolist())

    def _rearranged(self, text: np.ndarray, words: list[int]) -> np.ndarray:
        """A text as it is trained on, of the same length. Args: words: of both cuts, and of the choice of PSM or SPM."""
        kept = text[:-NUM_MARKS]
        first, second = sorted(word % (len(kept) + 1) for word in words[:2])
        prefix, middle, suffix = kept[:first], kept[first:second], kept[second:]
        if words[2] < self.spm_rate * 2**64:
            parts = [self.prefix_id], [self.suffix_id], suffix, [self.middle_id], prefix, middle
        else:
            parts = [self.prefix_id], prefix, [self.suffix_id], suffix, [self.middle_id], middle
        return np.concatenate(parts)

    def restored(self, text: np.ndarray) -> np.ndarray:
        """The text that a rearranged one was, without the three tokens that it lost at its end."""
        assert text[0] == self.prefix_id, "a rearranged text begins with the mark of the prefix"
        suffix, middle = (int(np.flatnonzero(text == mark)[0]) for mark in (self.suffix_id, self.middle_id))
        before, between, behind = text[1:suffix], text[suffix + 1 : middle], text[middle + 1 :]
        # In SPM nothing stands between the first two marks, and the prefix behind the third: in PSM the prefix is empty then.
        return np.concatenate((before, behind, between))
