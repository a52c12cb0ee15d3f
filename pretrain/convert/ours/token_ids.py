"""The ids of BOS, EOS and padding that config.json and generation_config.json of a Hugging Face folder state."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fanal.errors import UserError
from fanal.shown import shown

TokenId = int | list[int] | None
BOS, EOS, PAD = "bos_token_id", "eos_token_id", "pad_token_id"


class SpecialTokenIdError(UserError):
    """Error: an id of BOS, EOS or padding that no token can have; the message names the file and the key."""


def token_ids(content: Mapping[str, Any], path: Path, *, vocab_size: int | None = None) -> dict[str, TokenId]:
    """Return the ids that a file states, by their keys; null becomes None.

    Args: path: path of the file, for the message; vocab_size: vocabulary of the model, None where it is not known.
    Raises: SpecialTokenIdError.
    """
    found = {key: content[key] for key in (BOS, EOS, PAD) if key in content}
    for key, value in found.items():
        is_list = key == EOS and isinstance(value, list)  # a chat model may end its text in several ways
        if value is not None and not all(_is_id(token, vocab_size) for token in (value if is_list else [value])):
            above = "from 0" if vocab_size is None else f"from 0 to {vocab_size - 1:,}"
            raise SpecialTokenIdError(
                f"{key} ({shown(value, 120)}) of {path} must be an integer {above}"
                f"{', a list of them' if key == EOS else ''} or null; null works"
            )
    return found


def _is_id(value: Any, vocab_size: int | None) -> bool:
    return type(value) is int and value >= 0 and (vocab_size is None or value < vocab_size)
