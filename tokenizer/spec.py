"""What a tokenizer is to be: a small YAML file, read strictly.

Whatever is not in the spec is fixed, for every tokenizer of this project:
- the model is BPE; ids 0 `<s>`, 1 `</s>`, 2 `<unk>`, 3 `<pad>` are control tokens that no text can produce;
- whitespace is kept to the letter: no space is added in front, none is removed, runs of spaces may become one token.
After the four come reserved_tokens, user_defined_symbols, 256 byte tokens (with byte_fallback), then what was learned.

One character does not survive: U+2581, a block element that SentencePiece writes for a space, comes back as a space.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

BOS_ID, EOS_ID, UNK_ID, PAD_ID = 0, 1, 2, 3
CONTROL_PIECES = ("<s>", "</s>", "<unk>", "<pad>")  # in the order of their ids

Normalization = Literal["identity", "nfkc", "nfkc_cf", "nmt_nfkc", "nmt_nfkc_cf"]


@dataclass(frozen=True, kw_only=True)
class TokenizerSpec:
    """The choices behind one tokenizer."""

    vocab_size: int
    """Number of ids, all special and byte tokens included. Below 65,500 a shard takes 2 bytes per token, else 4."""
    normalization: Normalization = "identity"
    """What happens to the text before it is cut. identity: nothing, so that decoding gives back every character.
    nfkc: Unicode NFKC (full-width forms and ligatures are replaced). nfkc_cf: that and lower case. The nmt_ forms also
    turn newlines and tabs into spaces and drop control characters, so they do not suit code."""
    character_coverage: float = 0.9995
    """Share of the characters of the training text, most frequent first, that get a token of their own, in (0, 1].
    The rest is written in byte tokens."""
    byte_fallback: bool = True
    """Whether 256 byte tokens spell what has no token. Without it such characters become <unk> and are lost."""
    split_digits: bool = True
    """Whether every digit is its own token, so that numbers are read alike whatever their length."""
    max_piece_length: int = 16
    """Longest learned token, in characters."""
    user_defined_symbols: list[str] = field(default_factory=list)
    """Strings that are always one token where they occur in text, the longest first: a newline, four spaces."""
    reserved_tokens: list[str] = field(default_factory=list)
    """Names of control tokens kept for later use (chat turns, tools). Text never produces them, whatever it holds."""

    def __post_init__(self) -> None:
        if self.vocab_size < 1:
            raise ValueError(f"vocab_size ({self.vocab_size}) must be at least 1; 65024 is a usual size")
        if not 0.0 < self.character_coverage <= 1.0:
            raise ValueError(
                f"character_coverage ({self.character_coverage}) must be in (0, 1]; 0.9995 is a usual value"
            )
        if self.max_piece_length < 1:
            raise ValueError(
                f"max_piece_length ({self.max_piece_length}) must be at least 1 character; 16 is a usual value"
            )
        taken = set(CONTROL_PIECES) | {f"<0x{value:02X}>" for value in range(256)}
        for name in ("user_defined_symbols", "reserved_tokens"):
            for symbol in getattr(self, name):
                if not symbol or symbol in taken or "\0" in symbol:
                    raise ValueError(
                        f"{name} holds {symbol!r}, which is empty, given twice, holds NUL, or names a special or byte "
                        "token; give each string once, for example '\\n'"
                    )
                taken.add(symbol)


def load_spec(path: str | Path) -> TokenizerSpec:
    """Read a spec from YAML.

    Raises: ValueError naming the file and the key if a key is unknown (with the nearest known one), missing, of the
    wrong type or out of range.
    """
    path = Path(path)
    try:
        content = OmegaConf.load(path)  # refuses a key given twice, which plain YAML would not
    except FileNotFoundError:
        raise ValueError(f"tokenizer spec {path} does not exist; a small one is tokenizer/specs/tiny-2k.yaml") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as problem:
        raise ValueError(f"tokenizer spec {path} cannot be read as YAML: {problem}") from None
    if not isinstance(content, DictConfig):
        raise ValueError(f"tokenizer spec {path} must hold keys and values such as 'vocab_size: 2000', found a list")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(TokenizerSpec), content)
        return cast(TokenizerSpec, OmegaConf.to_object(merged))
    except OmegaConfBaseException as problem:
        # The first line says which key and "did you mean"; the rest is omegaconf's own bookkeeping.
        reason = str(problem).splitlines()[0]
        keys = ", ".join(TokenizerSpec.__dataclass_fields__)
        raise ValueError(f"tokenizer spec {path}: {reason} (keys of a spec: {keys})") from None
    except ValueError as problem:
        raise ValueError(f"tokenizer spec {path}: {problem}") from None


def spec_as_yaml(spec: TokenizerSpec) -> str:
    """Every choice, defaults included, in a form that `load_spec` reads back to an equal spec."""
    return OmegaConf.to_yaml(OmegaConf.structured(spec))
