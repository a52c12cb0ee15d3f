"""Which kinds of tokenizer.json are supported: BPE and Unigram whose pieces spell a space as something else.

That rule is what lets a control token be put out of a text's reach (oracles.py), and it holds for what language models have:
byte-level BPE (GPT-2, Llama 3, Qwen, OLMo, SmolLM) and SentencePiece's models.
"""

from pathlib import Path
from typing import Any

from fanal.errors import UserError
from fanal.shown import shown
from tokenizer.vocabulary.byte_level import is_byte_level, steps_of
from tokenizer.vocabulary.fast_json import SPACE_PIECE

MODELS = ("BPE", "Unigram")
INSTEAD = "a tokenizer of byte-level BPE, or of SentencePiece (BPE or Unigram), works"


def check_supported(path: Path, content: dict[str, Any]) -> None:
    """Check a parsed tokenizer.json. Raises: UserError naming the file, what was found and what is supported."""
    model = content.get("model")
    if not isinstance(model, dict) or not isinstance(content.get("added_tokens", []), list):
        raise UserError(f"{path} must hold an object named model and a list added_tokens, and does not; copy it again")
    kind = model.get("type", "BPE" if "merges" in model else None)
    if kind not in MODELS:
        raise UserError(f"{path} has a model of type {shown(kind, 40)}, expected {' or '.join(MODELS)}; {INSTEAD}")
    wanted = dict if kind == "BPE" else list
    if not isinstance(model.get("vocab"), wanted) or (kind == "BPE" and not isinstance(model.get("merges"), list)):
        raise UserError(f"{path} has a model without the vocabulary that its type {kind} has; copy it again")
    if model.get("dropout"):
        raise UserError(
            f"{path} has dropout {shown(model['dropout'], 40)}, with which a text gets other ids each time; null works"
        )
    if not is_byte_level(content) and not _spells_spaces(content):
        found = [shown(step.get("type"), 40) for step in steps_of(content.get("pre_tokenizer"))]
        raise UserError(
            f"{path} cuts text by {' and '.join(found) or 'nothing'}, expected ByteLevel, or Metaspace or a normalizer that writes "
            f"spaces as {SPACE_PIECE!r}; {INSTEAD}"
        )


def _spells_spaces(content: dict[str, Any]) -> bool:
    """Return whether every space becomes U+2581 before the model sees a text."""
    steps = [*steps_of(content.get("pre_tokenizer")), *steps_of(content.get("normalizer"))]
    return any(
        (step.get("type") == "Metaspace" and step.get("replacement") == SPACE_PIECE)
        or (
            step.get("type") == "Replace"
            and step.get("pattern") == {"String": " "}
            and step.get("content") == SPACE_PIECE
        )
        for step in steps
    )
