"""Byte-level BPE: each byte of a text is spelled as one printable character, and the pieces are made of those.

Source: GPT-2's encoder; `tokenizers` calls it ByteLevel.
"""

from collections.abc import Iterable
from typing import Any

from tokenizer.vocabulary.fast_json import SPACE_PIECE


def _alphabet() -> dict[str, int]:
    """Return the byte that each character spells: printable ones spell themselves, the others follow from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [value for value in range(256) if value not in printable]
    spelled = [(chr(value), value) for value in printable]
    return dict([*spelled, *((chr(256 + number), value) for number, value in enumerate(others))])


BYTE_OF = _alphabet()


def steps_of(part: Any) -> list[dict[str, Any]]:
    """Return the steps of a normalizer, pre-tokenizer or decoder of a tokenizer.json, those of sequences one by one."""
    if not isinstance(part, dict):
        return []
    inner = next((part[key] for key in ("normalizers", "pretokenizers", "decoders") if key in part), None)
    return [part] if not isinstance(inner, list) else [step for each in inner for step in steps_of(each)]


def is_byte_level(content: dict[str, Any]) -> bool:
    """Return whether the pieces of a tokenizer.json spell bytes."""
    steps = [*steps_of(content.get("pre_tokenizer")), *steps_of(content.get("normalizer"))]
    return any(step.get("type") == "ByteLevel" for step in steps)


def spelled_bytes(piece: str) -> bytes:
    """Return the bytes that a piece spells; those of its own characters if one of them spells none, as in an added token."""
    if all(character in BYTE_OF for character in piece):
        return bytes(BYTE_OF[character] for character in piece)
    return piece.encode()


def texts_of_pieces(pieces: Iterable[str], *, byte_level: bool) -> list[str]:
    """Return the text of each piece. Bytes that are a part of a character are completed to one."""
    if not byte_level:
        return [piece.replace(SPACE_PIECE, " ") for piece in pieces]
    return [_completed(bytes(BYTE_OF[c] for c in piece if c in BYTE_OF)) for piece in pieces]


def _completed(spelled: bytes) -> str:
    """Return bytes as text; a character cut at either end gets the bytes it lacks."""
    head = next((number for number, byte in enumerate(spelled) if byte & 0xC0 != 0x80), len(spelled))
    if head:
        spelled = {1: b"\xc3", 2: b"\xe4", 3: b"\xf1"}.get(head, b"") + spelled
    for start in range(max(0, len(spelled) - 3), len(spelled)):
        width = (
            2 if spelled[start] >> 5 == 6 else 3 if spelled[start] >> 4 == 14 else 4 if spelled[start] >> 3 == 30 else 1
        )
        if start + width > len(spelled):
            missing = start + width - len(spelled)
            spelled += b"\xa0" * missing if spelled[start] != 0xED else b"\x80" * missing
            break
    return spelled.decode("utf-8", "ignore")
