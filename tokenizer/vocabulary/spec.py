"""Specification of a tokenizer: a small YAML file, read strictly.

Everything that is not in the spec is fixed, for every tokenizer of this project:
- the model is BPE; ids 0 `<s>`, 1 `</s>`, 2 `<unk>`, 3 `<pad>` are control tokens that no text can produce;
- whitespace is kept to the letter: no space is added in front, none is removed, runs of spaces may become one token;
- text is prepared in front of the model (see normalize.py), so that training, encoding and tokenizer.json do the same.
After the four come reserved_tokens, user_defined_symbols, 256 byte tokens (with byte_fallback), then what was learned.

One character does not survive: U+2581, a block element that SentencePiece writes for a space, comes back as a space.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fanal.errors import UserError, error_type
from fanal.interpolations import refuse_other_interpolations
from fanal.plain_files import read_named
from tokenizer.vocabulary.normalize import Normalization, prepare_text

BOS_ID, EOS_ID, UNK_ID, PAD_ID = 0, 1, 2, 3
CONTROL_PIECES = ("<s>", "</s>", "<unk>", "<pad>")  # in the order of their ids
SHARE_TOLERANCE = 1e-6  # shares are written with a few decimals


def symbol_piece(symbol: str) -> str:
    """Return a user-defined symbol as the model spells it: inside SentencePiece a space is U+2581."""
    return symbol.replace(" ", "\u2581")


MAX_VOCAB_SIZE = 2**31 - 1
"""SentencePiece counts its pieces in 32 bits."""
MAX_SPEC_BYTES = 1 << 20
SMALL_SPEC = Path(__file__).parents[1] / "specs" / "tiny-2k.yaml"


@dataclass(frozen=True, kw_only=True)
class TokenizerSpec:
    """Choices that define one tokenizer."""

    vocab_size: int
    """Number of ids, all special and byte tokens included. Below 65,500 a shard takes 2 bytes per token, else 4."""
    normalization: Normalization = "identity"
    """Normalization of the text before it is cut. identity: none, so that decoding gives back every character.
    nfc: Unicode NFC, which joins letters and their accents and changes no text's meaning. nfkc: Unicode NFKC, which also
    replaces full-width forms, ligatures, superscripts and more."""
    remove_characters: list[str] = field(default_factory=list)
    """Characters that are taken out of every text, before normalization: "\\r" so that all line ends are alike, "\\0"."""
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
    """Names of control tokens kept for later use (chat turns, tools), two characters or longer. Text never produces
    them, whatever it holds."""
    languages: dict[str, float] = field(default_factory=dict)
    """Share of the training characters by language, adding up to 1. A document's language is its field `language`, else
    its `domain`. Empty: the text is taken as it comes."""
    training_characters: int | None = None
    """Number of characters to train on. None: all, or with languages as many as the scarcest one allows. The trainer holds them in
    memory several times over."""
    seed: int = 0
    """Seed of the choice of documents, where languages or training_characters ask for one. Training itself is not random."""

    def __post_init__(self) -> None:
        if not 1 <= self.vocab_size <= MAX_VOCAB_SIZE:
            raise UserError(f"vocab_size ({self.vocab_size}) must be from 1 to {MAX_VOCAB_SIZE}; 65024 is a usual size")
        if not 0.0 < self.character_coverage <= 1.0:
            raise UserError(
                f"character_coverage ({self.character_coverage}) must be in (0, 1]; 0.9995 is a usual value"
            )
        if self.max_piece_length < 1:
            raise UserError(
                f"max_piece_length ({self.max_piece_length}) must be at least 1 character; 16 is a usual value"
            )
        self._check_symbols()
        self._check_sample()

    def prepare(self, text: str) -> str:
        """Return the text as the model is to see it; it may be empty where characters are removed."""
        return prepare_text(text, normalization=self.normalization, remove_characters=self.remove_characters)

    def _check_symbols(self) -> None:
        for character in self.remove_characters:
            if len(character) != 1 or self.remove_characters.count(character) > 1:
                raise UserError(
                    f"remove_characters holds {character!r}, which is not one character or is given twice; "
                    'give each character once, for example "\\r"'
                )
        taken = set(CONTROL_PIECES) | {f"<0x{value:02X}>" for value in range(256)}
        for name in ("user_defined_symbols", "reserved_tokens"):
            for symbol in getattr(self, name):
                piece = symbol_piece(symbol)
                if not symbol or piece in taken or "\0" in symbol:
                    raise UserError(
                        f"{name} holds {symbol!r}, which is empty, given twice, holds NUL, or names a special or byte "
                        "token; give each string once, for example '\\n'"
                    )
                taken.add(piece)
        for symbol in self.user_defined_symbols:
            if self.prepare(symbol) != symbol:
                raise UserError(
                    f"user_defined_symbols holds {symbol!r}, which no text holds once remove_characters and "
                    f"normalization {self.normalization} are done; {self.prepare(symbol)!r} is what is left of it"
                )
        for symbol in self.reserved_tokens:
            if len(symbol) == 1:
                raise UserError(
                    f"reserved_tokens holds {symbol!r}, a single character, which SentencePiece would find in text; "
                    f"a reserved token has at least 2 characters, for example '<{symbol}>'"
                )

    def _check_sample(self) -> None:
        for language, share in self.languages.items():
            if not 0.0 < share <= 1.0:
                raise UserError(f"languages gives {language!r} a share of {share}; a share is in (0, 1], such as 0.25")
        total = math.fsum(self.languages.values())
        if self.languages and abs(total - 1.0) > SHARE_TOLERANCE:
            raise UserError(
                f"languages has shares that add up to {total:.6g}; they must add up to 1, for example "
                + ", ".join(f"{language}: {share / total:.4g}" for language, share in self.languages.items())
            )
        if self.training_characters is not None and self.training_characters < max(1, len(self.languages)):
            raise UserError(
                f"training_characters ({self.training_characters}) must be at least {max(1, len(self.languages))}, one "
                "per language; leave it out to train on all that the shares allow"
            )


def load_spec(path: str | Path) -> TokenizerSpec:
    """Read a spec from YAML.

    Raises: UserError naming the file and the key if a key is unknown (with the nearest known one), missing, of the
    wrong type or out of range.
    """
    path = Path(path)
    try:
        content = OmegaConf.create(
            read_named(path, max_bytes=MAX_SPEC_BYTES).decode("utf-8")
        )  # refuses a key given twice, which plain YAML would not
    except FileNotFoundError:
        raise UserError(f"tokenizer spec {path} does not exist; {SMALL_SPEC} is a small one that works") from None
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as problem:
        raise error_type(problem)(f"tokenizer spec {path} cannot be read as YAML: {problem}") from None
    if not isinstance(content, DictConfig):
        raise UserError(f"tokenizer spec {path} must hold keys and values such as 'vocab_size: 2000', found a list")
    refuse_other_interpolations(OmegaConf.to_container(content), where=f"tokenizer spec {path}")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(TokenizerSpec), content)
        return cast(TokenizerSpec, OmegaConf.to_object(merged))
    except OmegaConfBaseException as problem:
        # The first line says which key and "did you mean"; the rest is omegaconf's own bookkeeping.
        reason = str(problem).splitlines()[0]
        keys = ", ".join(TokenizerSpec.__dataclass_fields__)
        raise UserError(f"tokenizer spec {path}: {reason} (keys of a spec: {keys})") from None
    except (
        TypeError,
        OverflowError,
    ) as problem:  # of omegaconf: a list where a mapping belongs, a number beyond any float
        raise UserError(
            f"tokenizer spec {path}: {problem}; tokenizer/specs/tiny-2k.yaml has the form of each key"
        ) from None
    except UserError as problem:
        raise UserError(f"tokenizer spec {path}: {problem}") from None


def spec_as_yaml(spec: TokenizerSpec) -> str:
    """Return every choice, defaults included, as YAML that `load_spec` reads back to an equal spec."""
    return OmegaConf.to_yaml(OmegaConf.structured(spec))
