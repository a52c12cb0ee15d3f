"""tokenizer.json: the same tokenizer for Hugging Face's `tokenizers`, with the same ids for every text.

Written with the standard library alone. What must hold for the ids to be equal, piece by piece:

- Preparation (see normalize.py) and spaces as U+2581 are normalizers. There is no pre-tokenizer: both cut whole texts.
- User-defined symbols are added tokens that are matched in the normalized text: leftmost, then longest, as SentencePiece
  does, and never merged with a neighbour.
- SentencePiece merges whichever neighbours join to a token, best score first, leftmost first; `tokenizers` wants pairs
  with ranks. As every merge is the best at its time, the neighbours that join to a given token are always the same two:
  those that are left when the token itself is cut. So there is one pair per token, and its rank is the place of its score.
- The control and reserved tokens are in the vocabulary but not among the added tokens: nothing matches them in a text,
  no pair joins to them, and none is a single character (see spec.py). A "<s>" in a text stays three characters.

BOS and EOS are not added (there is no post-processor). A user who declares "<s>" as a special token on top of this file, as
the `bos_token` of a tokenizer_config.json does, makes it match in text again unless `split_special_tokens` is true there.

Decoding gives the text that SentencePiece gives, and leaves the control tokens out whatever skip_special_tokens says. One
difference, for ids that no text gives: of byte tokens that are not UTF-8, `tokenizers` replaces a whole run by U+FFFD.
"""

import json
from itertools import pairwise
from typing import Any

import sentencepiece

from tokenizer.vocabulary.spec import CONTROL_PIECES, UNK_ID, TokenizerSpec, symbol_piece

SPACE_PIECE = "\u2581"
UNKNOWN_TEXT = " \u2047 "  # what SentencePiece writes for <unk>


def fast_tokenizer_json(processor: sentencepiece.SentencePieceProcessor, spec: TokenizerSpec) -> bytes:
    """Return the file's content, the same bytes for the same model and spec."""
    pieces = [processor.IdToPiece(i) for i in range(processor.GetPieceSize())]
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(spec, {piece: i for i, piece in enumerate(pieces)}),
        "normalizer": _normalizer(spec),
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": _decoder([pieces[i] for i in range(len(pieces)) if processor.IsControl(i)]),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": pieces[UNK_ID],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": spec.byte_fallback,
            "ignore_merges": False,
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "merges": merges(learned_scores(processor, spec), [symbol_piece(s) for s in spec.user_defined_symbols]),
        },
    }
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode("utf-8")


def learned_scores(processor: sentencepiece.SentencePieceProcessor, spec: TokenizerSpec) -> dict[str, float]:
    """Return piece -> score of the tokens that text is cut into: all but special, reserved, byte and user-defined ones."""
    symbols = {symbol_piece(symbol) for symbol in spec.user_defined_symbols}
    scores: dict[str, float] = {}
    for i in range(processor.GetPieceSize()):
        piece = processor.IdToPiece(i)
        if not (processor.IsControl(i) or processor.IsUnknown(i) or processor.IsByte(i) or piece in symbols):
            assert not processor.IsUnused(i), f"{piece!r} is a token out of use, which a trained model has none of"
            scores[piece] = processor.GetScore(i)
    return scores


def merges(scores: dict[str, float], symbols: list[str]) -> list[list[str]]:
    """Return [left, right] of every token that text can reach, best score first.

    Args: scores by learned piece; symbols are the user-defined pieces, which cut a text before anything is merged.
    """
    joined = [piece for piece in sorted(scores, key=lambda piece: -scores[piece]) if len(piece) > 1]
    assert len({scores[piece] for piece in joined}) == len(joined), "two learned tokens have one score"
    assert all(character in scores for piece in joined for character in piece), "a character has no token of its own"
    pairs = []
    for piece in joined:
        parts = last_parts(piece, scores)
        # A token that its own text does not lead to is never made; nor is one that a symbol would have cut.
        if len(parts) == 2 and not any(symbol in piece for symbol in symbols):
            pairs.append(parts)
    return pairs


def last_parts(piece: str, scores: dict[str, float]) -> list[str]:
    """Return what is left of a piece's characters when all merges are made but the one that gives the piece itself."""
    parts = list(piece)
    while len(parts) > 2:
        candidates = [(scores.get(left + right), -at) for at, (left, right) in enumerate(pairwise(parts))]
        best = max((c for c in candidates if c[0] is not None), default=None)
        if best is None:
            break
        at = -best[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def _added_tokens(spec: TokenizerSpec, ids: dict[str, int]) -> list[dict[str, Any]]:
    # "normalized" means matched in the normalized text, where a space is U+2581 already.
    fixed = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    pieces = [symbol_piece(symbol) for symbol in spec.user_defined_symbols]
    return [{"id": ids[piece], "content": piece, **fixed} for piece in sorted(pieces, key=lambda piece: ids[piece])]


def _normalizer(spec: TokenizerSpec) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [_replace(character, "") for character in spec.remove_characters]
    if spec.normalization != "identity":
        steps.append({"type": spec.normalization.upper()})
    return {"type": "Sequence", "normalizers": [*steps, _replace(" ", SPACE_PIECE)]}


def _decoder(control_pieces: list[str]) -> dict[str, Any]:
    unknown = CONTROL_PIECES[UNK_ID]
    steps = [
        {"type": "Replace", "pattern": {"Regex": _exactly(control_pieces)}, "content": ""},
        {"type": "Replace", "pattern": {"Regex": _exactly([unknown])}, "content": UNKNOWN_TEXT},
        _replace(SPACE_PIECE, " "),
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    return {"type": "Sequence", "decoders": steps}


def _replace(text: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": text}, "content": content}


def _exactly(texts: list[str]) -> str:
    """Return a regular expression for tokens that are one of the texts, the same to all engines: no letter stands for
    itself."""
    spelled = ["".join(f"\\x{{{ord(character):X}}}" for character in text) for text in texts]
    return rf"\A(?:{'|'.join(spelled)})\z"
