"""A tokenizer.json for documents' text: the names of special tokens mean nothing to it."""

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizer.vocabulary.fast_json import SPACE_PIECE

_SPACES: Any = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_PIECE}
_DOUBLED: Any = {"type": "Replace", "pattern": {"Regex": f"\\A{SPACE_PIECE}"}, "content": SPACE_PIECE * 2}
_IN_FRONT: Any = {"type": "Metaspace", "replacement": SPACE_PIECE, "prepend_scheme": "always", "split": False}


def for_fast_engine(content: dict[str, Any]) -> dict[str, Any]:
    """Return a tokenizer.json with the same ids in a form that gigatoken reads.

    transformers 5 writes SentencePiece's space in front of each text as a regular expression and a pre-tokenizer.
    """
    cuts, normalizer = content.get("pre_tokenizer"), content.get("normalizer")
    if isinstance(cuts, dict) and cuts.get("type") == "Sequence" and len(cuts["pretokenizers"]) == 1:
        cuts = cuts["pretokenizers"][0]
    if cuts != _IN_FRONT or normalizer != {"type": "Sequence", "normalizers": [_SPACES, _DOUBLED]}:
        return content
    steps = [{"type": "Prepend", "prepend": SPACE_PIECE}, _SPACES]
    return content | {"normalizer": {"type": "Sequence", "normalizers": steps}, "pre_tokenizer": None}


def without_names(content: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """Return a tokenizer.json to which these names of special tokens mean nothing: they are neither matched nor pieces."""
    model = dict(content["model"])
    if is_reachable(model, names):
        vocabulary = model["vocab"]
        if isinstance(vocabulary, dict):
            model["vocab"] = {_unreachable(piece, names): token for piece, token in vocabulary.items()}
            if model.get("unk_token") is not None:
                model["unk_token"] = _unreachable(model["unk_token"], names)
            model["merges"] = [pair for pair in model["merges"] if names.isdisjoint(_made(pair))]
        else:
            model["vocab"] = [[_unreachable(piece, names), score] for piece, score in vocabulary]
    added = [token for token in content["added_tokens"] if not token["special"]]
    return content | {
        "model": model,
        "added_tokens": added,
        "post_processor": None,
        "truncation": None,
        "padding": None,
    }


def ordinary_pieces(model: Mapping[str, Any], names: Sequence[str]) -> set[str]:
    """Return which names that a config calls special are pieces that text is spelled with, such as padding by "!": they stay so."""
    vocabulary = model["vocab"]
    if not isinstance(vocabulary, dict):
        learned = {piece for piece, score in vocabulary if score != 0}  # SentencePiece gives its special pieces 0
        return learned.intersection(names)
    made = {part for pair in model["merges"] for part in _made(pair)}
    return {name for name in names if name in vocabulary and (len(name) == 1 or name in made)}


def is_reachable(model: Mapping[str, Any], names: set[str]) -> bool:
    """Return whether a model may make a special token of its name in a text."""
    vocabulary = model["vocab"]
    if not isinstance(vocabulary, dict):
        return any(piece in names for piece, _ in vocabulary)
    inside = names & vocabulary.keys()
    if not inside:
        return False
    return bool(
        model.get("ignore_merges")
        or any(len(name) == 1 for name in inside)
        or any(not inside.isdisjoint(_made(pair)) for pair in model["merges"])
    )


def _made(pair: str | Sequence[str]) -> tuple[str, str, str]:
    """Return the pieces that a merge names: left, right, and what they make."""
    left, right = pair.split(" ", 1) if isinstance(pair, str) else pair
    return left, right, left + right


def _unreachable(piece: str, names: set[str]) -> str:
    """Return a spelling that no text has: to every supported model a space is spelled otherwise (hf_json.py)."""
    return f" {piece} " if piece in names else piece
