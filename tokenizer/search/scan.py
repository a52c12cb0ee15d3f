"""Search for a text in ranges of a shard's tokens."""

from collections.abc import Iterable, Iterator

import numpy as np

from tokenizer.search.anchor import Anchor, Placements, sampled_counts
from tokenizer.search.decode import ShardText
from tokenizer.search.hits import Place, occurrences, reach

PIECE_TOKENS = 1 << 18
"""Tokens that are looked at together."""
TOKENS_PER_WINDOW = 3000
"""Tokens that are decoded together in the time that a few tokens take by themselves."""
Range = tuple[int, int]


def find_places(text: ShardText, wanted: bytes, placements: Placements, ranges: Iterable[Range]) -> Iterator[Place]:
    """Yield every place where the bytes occur, if their anchor lies in one of the ranges of tokens, in the order of the shard.

    Args: placements: of the tokens over ``wanted``; ranges: first and one past the last token, ascending, none touching another.
    """
    with text.in_vocabulary(0, text.shard.num_tokens):
        anchor = placements.anchor(sampled_counts(text.tokens, len(text.decoder.pieces)))
    for piece in pieces_of(ranges):
        yield from _in_piece(text, wanted, anchor, piece)


def pieces_of(ranges: Iterable[Range]) -> Iterator[Range]:
    """Yield ranges of up to PIECE_TOKENS tokens that make up the ranges."""
    for first, end in ranges:
        for start in range(first, end, PIECE_TOKENS):
            yield start, min(end, start + PIECE_TOKENS)


def _in_piece(text: ShardText, wanted: bytes, anchor: Anchor, piece: Range) -> Iterator[Place]:
    with text.in_vocabulary(*piece):
        holders = anchor.holders(text.tokens, *piece)
    if not len(holders):
        return
    number, edges = text.shard.document_edges(piece[0], piece[1] - piece[0])
    if len(holders) * TOKENS_PER_WINDOW > piece[1] - piece[0]:
        windows = [(piece, (int(edges[0]), int(edges[-1])))]
    else:
        documents = np.searchsorted(edges, holders, side="right") - 1
        windows = [
            ((token, token + 1), (int(edges[document]), int(edges[document + 1])))
            for token, document in zip(holders.tolist(), documents.tolist(), strict=True)
        ]
    for owned, around in windows:
        for start, end, offset in _in_window(text, wanted, anchor.byte, owned, around):
            document = int(np.searchsorted(edges, start, side="right")) - 1
            document_end = int(edges[document + 1])
            if end <= document_end:
                yield Place(number + document, int(edges[document]), document_end, start, end, offset)


def _in_window(
    text: ShardText, wanted: bytes, anchor_byte: int, owned: Range, around: Range
) -> Iterator[tuple[int, int, int]]:
    """Yield (first token, one past the last, byte in the first) of occurrences whose anchor is in the tokens that are owned.

    Args: around: tokens beyond which nothing is decoded.
    """
    first, last = reach(text, around, owned, before=anchor_byte, behind=len(wanted) - anchor_byte - 1)
    found = text.decode(first, last)
    at = occurrences(found.content, wanted)
    held_by = found.token_of(at + anchor_byte) + first
    at = at[(owned[0] <= held_by) & (held_by < owned[1])]
    starts, ends = found.token_of(at), found.token_of(at + len(wanted) - 1) + 1
    for byte, start, end in zip(at.tolist(), starts.tolist(), ends.tolist(), strict=True):
        yield first + start, first + end, byte - found.start_of(start)
