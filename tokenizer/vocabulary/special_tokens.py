"""What the files of a Hugging Face folder state of its tokenizer: added and special tokens, the ids of BOS, EOS and padding.

A token is named in tokenizer_config.json, else in special_tokens_map.json; where neither has the key, config.json and
generation_config.json may state its id. A key that is null there says that there is none, as Qwen's say of BOS.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fanal.errors import UserError
from fanal.shown import kind_of, shown
from tokenizer.vocabulary.folder import FAST_NAME, MODEL_NAME
from tokenizer.vocabulary.hf_json import check_supported
from tokenizer.vocabulary.oracles import Oracle, SentencePieceOracle, TokenizersOracle

TOKENIZER_CONFIG, SPECIAL_MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
MODEL_CONFIGS = ("config.json", "generation_config.json")
"""Files of the model that may state ids; they are read, and not kept."""
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
LISTS = ("additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens")
FIELDS = {"content": str, "lstrip": bool, "rstrip": bool, "normalized": bool, "single_word": bool, "special": bool}
"""Fields of an added token."""
LFS_POINTER = b"version https://git-lfs.github.com/"
AGAIN = "copy it again, or remove it"


@dataclass(frozen=True, kw_only=True)
class Stated:
    """The parsed files of a folder."""

    folder: Path
    content: dict[str, Any] | None
    """tokenizer.json; None if there is none."""
    model: bytes | None
    """tokenizer.model, likewise."""
    config: dict[str, Any]
    special_map: dict[str, Any]
    added: dict[str, Any]

    @staticmethod
    def of(folder: Path, files: Mapping[str, bytes]) -> "Stated":
        """Parse the files of a folder. Raises: UserError naming the file that is not JSON, or holds no object."""
        parsed = {
            name: parse_object(folder / name, files[name]) if name in files else None
            for name in (FAST_NAME, TOKENIZER_CONFIG, SPECIAL_MAP, ADDED)
        }
        return Stated(
            folder=folder,
            content=parsed[FAST_NAME],
            model=files.get(MODEL_NAME),
            config=parsed[TOKENIZER_CONFIG] or {},
            special_map=parsed[SPECIAL_MAP] or {},
            added=parsed[ADDED] or {},
        )

    def name_of(self, key: str) -> tuple[bool, str | None]:
        """Return whether a key such as ``eos_token`` is there, and the token that it names; None for null. Raises: UserError."""
        for name, content in ((TOKENIZER_CONFIG, self.config), (SPECIAL_MAP, self.special_map)):
            if key in content:
                return True, None if content[key] is None else _text_of(content[key], f"{key} of {self.folder / name}")
        return False, None

    def special_names(self) -> list[str]:
        """Return the names of all tokens that the files call special, beside those of tokenizer.json. Raises: UserError."""
        found = [name for key in NAMED if (name := self.name_of(key)[1]) is not None]
        for file, content in ((TOKENIZER_CONFIG, self.config), (SPECIAL_MAP, self.special_map)):
            for key in LISTS:
                value = content.get(key) or []
                values = (
                    list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
                )
                found += [_text_of(each, f"{key} of {self.folder / file}") for each in values]
        return list(dict.fromkeys(found))

    def added_tokens(self) -> dict[int, dict[str, Any]]:
        """Return ``added_tokens_decoder`` of tokenizer_config.json: fields by id. Raises: UserError."""
        path, found = self.folder / TOKENIZER_CONFIG, self.config.get("added_tokens_decoder") or {}
        if not isinstance(found, dict):
            raise UserError(f"added_tokens_decoder of {path} must hold an object; it holds {kind_of(found)}; {AGAIN}")
        tokens: dict[int, dict[str, Any]] = {}
        for token, fields in found.items():
            rest = {key: value for key, value in fields.items() if key in FIELDS} if isinstance(fields, dict) else {}
            fits = all(type(value) is FIELDS[key] for key, value in rest.items()) and rest.get("content")
            if not fits or not (token.isascii() and token.isdigit()):
                raise UserError(
                    f"added_tokens_decoder of {path} must hold tokens by their ids, each with its content, and has "
                    f"{shown({token: fields}, 120)}; {AGAIN}"
                )
            tokens[int(token)] = rest
        return tokens


@dataclass(frozen=True, kw_only=True)
class SpecialIds:
    """Ids with a part to play; None for those that a tokenizer has not."""

    bos_id: int | None
    eos_id: int
    unk_id: int | None
    pad_id: int | None
    adds_bos: bool
    """Whether the files put a BOS in front of a text."""


def open_oracle(stated: Stated) -> Oracle:
    """Open the library that defines the ids of a folder. Raises: UserError if it is not one that is supported."""
    if stated.content is not None:
        check_supported(stated.folder / FAST_NAME, stated.content)
        return TokenizersOracle(
            stated.folder / FAST_NAME, stated.content, stated.added_tokens(), stated.special_names()
        )
    path = stated.folder / MODEL_NAME
    assert stated.model is not None, "a folder has one of the two"
    try:
        bare = SentencePieceOracle(stated.model, {})
    except RuntimeError as problem:
        raise UserError(f"{path} is not a SentencePiece model ({problem}); copy it again") from None
    return SentencePieceOracle(stated.model, _beyond_model(stated, bare))


def _beyond_model(stated: Stated, bare: Oracle) -> dict[int, str]:
    """Return the special tokens that files add to a tokenizer.model. Raises: UserError for one that is not special: text would
    have to be cut at it, which SentencePiece alone does not do."""
    added = {token: (fields["content"], bool(fields.get("special"))) for token, fields in stated.added_tokens().items()}
    names = stated.special_names()
    for name, token in stated.added.items():
        if type(token) is not int or token < 0:
            raise UserError(f"{stated.folder / ADDED} gives {name!r} the id {shown(token, 60)}, which is none; {AGAIN}")
        added.setdefault(token, (name, name in names))
    special = {}
    for token, (name, is_special) in added.items():
        if token < bare.vocab_size and bare.piece(token) == name:
            continue
        if not is_special or token < bare.vocab_size:
            raise UserError(
                f"{stated.folder} adds the token {name!r} (id {token}) to its {MODEL_NAME}, and only added special tokens behind "
                f"its {bare.vocab_size:,} pieces can be read without a {FAST_NAME}; transformers writes one with "
                f"AutoTokenizer.from_pretrained({str(stated.folder)!r}).save_pretrained(...)"
            )
        special[token] = name
    return special


def special_ids(
    stated: Stated,
    oracle: Oracle,
    model_configs: Mapping[str, Mapping[str, Any]],
    *,
    bos_token: str | None = None,
    eos_token: str | None = None,
) -> SpecialIds:
    """Find the ids. Args: model_configs: content of config.json and generation_config.json; bos_token, eos_token: a user's choice.

    Raises: UserError if no token ends documents, or if one that starts or ends them is no special token.
    """
    control = oracle.control()

    def found(key: str, option: str | None) -> int | None:
        if option is not None:
            return _named(oracle, option, f"--{key.replace('_', '-')} ({option!r})", control)
        is_there, name = stated.name_of(key)
        if name is not None:
            return _named(oracle, name, f"{key} of {stated.folder} ({name!r})", control)
        if is_there:
            return None
        for content in model_configs.values():
            value = content.get(f"{key}_id")
            value = value[0] if isinstance(value, list) and value else value
            if type(value) is int and value in control:
                return value
        return None

    eos_id = found("eos_token", eos_token)
    if eos_id is None:
        raise UserError(
            f"HF_DIR ({stated.folder}) does not say which token ends a document: no eos_token in {TOKENIZER_CONFIG} or "
            f"{SPECIAL_MAP}, and no eos_token_id of a special token in {' or '.join(MODEL_CONFIGS)}; {_choice('eos', control)}"
        )
    bos_id = found("bos_token", bos_token)
    pad, unk = stated.name_of("pad_token")[1], stated.name_of("unk_token")[1]
    return SpecialIds(
        bos_id=bos_id,
        eos_id=eos_id,
        unk_id=None if unk is None else oracle.id_of(unk),
        pad_id=None if pad is None else oracle.id_of(pad),
        adds_bos=bos_id is not None and _adds_bos(stated, oracle, bos_id),
    )


def _adds_bos(stated: Stated, oracle: Oracle, bos_id: int) -> bool:
    """Return whether `transformers` puts the BOS in front of a text: as add_bos_token says, else as the post-processor does."""
    if "add_bos_token" in stated.config:
        return bool(stated.config["add_bos_token"])
    return oracle.bos_in_front() == bos_id if isinstance(oracle, TokenizersOracle) else True


def _named(oracle: Oracle, name: str, what: str, control: Mapping[int, str]) -> int:
    token = oracle.id_of(name)
    if token is None or token not in control:
        is_what = "is not in the vocabulary" if token is None else "is one that text may produce"
        end = "bos" if "bos" in what else "eos"
        raise UserError(f"{what} must be a special token of the tokenizer, and {is_what}; {_choice(end, control)}")
    return token


def _choice(key: str, control: Mapping[int, str]) -> str:
    """Return the end of a message: an option that works."""
    if not control:
        return 'it has no special token at all; a tokenizer.json that lists one among its added_tokens, "special": true, works'
    names = list(control.values())
    likely = ("end", "eos", "</s>") if key == "eos" else ("begin", "start", "bos", "<s>")
    name = next((name for name in names if any(word in name.lower() for word in likely)), names[0])
    return f"--{key}-token {_quoted(name)} works, or another special token ({len(names):,} in all)"


def _quoted(name: str) -> str:
    return "'" + name.replace("'", "'\"'\"'") + "'"


def _text_of(value: Any, where: str) -> str:
    """Return the text of a token, which stands alone or in an object of its fields. Raises: UserError."""
    text = value.get("content") if isinstance(value, dict) else value
    if not isinstance(text, str) or not text:
        raise UserError(f"{where} must be a token's text, and holds {shown(value, 120)}; {AGAIN}")
    return text


def parse_object(path: Path, raw: bytes) -> dict[str, Any]:
    """Return a JSON object. Raises: UserError naming the file."""
    if raw.startswith(LFS_POINTER):
        raise UserError(
            f"{path} is a pointer of Git LFS, and not the file itself; `git lfs pull` in its repository fetches it"
        )
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as problem:
        raise UserError(f"{path} is not JSON ({problem}); {AGAIN}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold an object; it holds {kind_of(content)}; {AGAIN}")
    return content
