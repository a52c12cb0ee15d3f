"""The bytes that each token adds to a document's text: all that a search needs to know of a tokenizer.

A text is the bytes of its tokens, one after the other. Control tokens add none, a byte token adds its byte. The only thing that
depends on the place of a token is what decoders drop in front of a text: the space that their tokenizer had put there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenBytes:
    """Bytes of every token of a vocabulary."""

    pieces: tuple[bytes, ...]
    """Bytes of each id, [vocab_size]."""
    dropped_in_front: np.ndarray
    """Bytes of each id that are dropped where it is the first of a text that adds any: uint16 [vocab_size]."""


def byte_of(piece: str) -> bytes:
    """Return the byte that a piece such as ``<0x0A>`` stands for."""
    return bytes([int(piece[3:5], 16)])


def plain_token_bytes(pieces: Sequence[bytes]) -> TokenBytes:
    """Return the bytes of a tokenizer that drops nothing in front of a text."""
    return TokenBytes(pieces=tuple(pieces), dropped_in_front=np.zeros(len(pieces), dtype=np.uint16))


def token_bytes_by_decoding(decode: Callable[[list[int]], str], *, known: dict[int, bytes], num_ids: int) -> TokenBytes:
    """Find the bytes of tokens by decoding each of them, behind another token and alone.

    Args: known: bytes of tokens that are no text by themselves, such as those of one byte.
    """
    alone = [decode([token]).encode() if token not in known else b"" for token in range(num_ids)]
    front = next((token for token in range(num_ids) if alone[token]), 0)
    pieces, dropped = [], np.zeros(num_ids, dtype=np.uint16)
    for token in range(num_ids):
        piece = known.get(token)
        if piece is None:
            piece = decode([front, token]).encode()[len(alone[front]) :]
            dropped[token] = len(piece) - len(alone[token]) if piece.endswith(alone[token]) else 0
        pieces.append(piece)
    return TokenBytes(pieces=tuple(pieces), dropped_in_front=dropped)
