"""Text to a model's ids and back: by a tokenizer folder of ours, or by the files of a Hugging Face folder."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece

from fanal.errors import UserError, error_type
from pretrain.convert.ours.token_ids import BOS, EOS, token_ids
from tokenizer.vocabulary.load import INFO_NAME, load_tokenizer

TOKENIZER_JSON, SENTENCEPIECE_MODEL = "tokenizer.json", "tokenizer.model"


@dataclass(frozen=True, kw_only=True)
class TextCodec:
    """How a model reads and writes."""

    encode: Callable[[str], list[int]]
    """Ids of a text, without those that begin or end a document."""
    decode: Callable[[list[int]], str]
    """The text of ids; those that stand for no text are left out."""
    first_ids: tuple[int, ...]
    """What a document begins with: BOS, or nothing."""
    eos_ids: frozenset[int]
    """What ends one."""
    vocab_size: int | None
    """Ids that mean something are below it; None where the model alone knows."""
    sha256: str | None
    """Of the SentencePiece model, by which shards know a tokenizer of ours; else None."""


def open_codec(folder: Path, *, config: dict[str, Any] | None = None, vocab_size: int | None = None) -> TextCodec:
    """The tokenizer in a folder: ours, or Hugging Face's.

    Args: config: the ``config.json`` of the model, if the folder has no copy of it; read for the ids of BOS and EOS;
        vocab_size: of the model, where it is the tokenizer's own: no id may be beyond.
    Raises: UserError if there is none, or if an id is none.
    """
    if (folder / INFO_NAME).exists():
        tokenizer = load_tokenizer(folder)
        return TextCodec(
            encode=lambda text: tokenizer.encode_batch([text], num_threads=1)[0].tolist(),
            decode=tokenizer.decode,
            first_ids=(tokenizer.bos_id,),
            eos_ids=frozenset({tokenizer.eos_id}),
            vocab_size=tokenizer.vocab_size,
            sha256=tokenizer.model_sha256,
        )
    ids = token_ids(_read_json(folder / "config.json") | (config or {}), folder / "config.json", vocab_size=vocab_size)
    generation = folder / "generation_config.json"
    ids |= token_ids(_read_json(generation), generation, vocab_size=vocab_size)
    bos_id, eos = ids.get(BOS), ids.get(EOS)
    assert not isinstance(bos_id, list), "a list is none of its values"
    eos_ids = frozenset(eos if isinstance(eos, list) else [] if eos is None else [eos])
    if (folder / TOKENIZER_JSON).is_file():
        return _from_tokenizer_json(folder, bos_id, eos_ids)
    if (folder / SENTENCEPIECE_MODEL).is_file():
        return _from_sentencepiece(folder / SENTENCEPIECE_MODEL, bos_id, eos_ids)
    raise UserError(
        f"no tokenizer is in {folder}: it has neither {INFO_NAME} nor {TOKENIZER_JSON} nor {SENTENCEPIECE_MODEL}; "
        "--tokenizer DIR names the folder of one"
    )


def read_tokenizer_json(path: Path) -> Any:
    """A ``tokenizers.Tokenizer``. Raises: UserError if the library is not there, or does not read the file."""
    try:
        import tokenizers
    except ImportError:
        raise UserError(
            f"{path} needs the library tokenizers, which is not installed; pip install 'fanal[hf]' brings it"
        ) from None
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{path} is no tokenizer that tokenizers can read ({error})") from None


def _from_tokenizer_json(folder: Path, bos_id: int | None, eos_ids: frozenset[int]) -> TextCodec:
    tokenizer = read_tokenizer_json(folder / TOKENIZER_JSON)
    starts_with_bos = tokenizer.encode("").ids == [bos_id] or _read_json(folder / "tokenizer_config.json").get(
        "add_bos_token", False
    )
    return TextCodec(
        encode=lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
        first_ids=(bos_id,) if starts_with_bos and bos_id is not None else (),
        eos_ids=eos_ids,
        vocab_size=None,
        sha256=None,
    )


def _from_sentencepiece(path: Path, bos_id: int | None, eos_ids: frozenset[int]) -> TextCodec:
    """A folder with the SentencePiece model alone, as those of Llama 1 and 2 may be."""
    try:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise error_type(error)(f"{path} is no SentencePiece model ({error})") from None
    return TextCodec(
        encode=lambda text: processor.Encode(text),
        decode=lambda ids: processor.Decode([token for token in ids if token < processor.GetPieceSize()]),
        first_ids=() if bos_id is None else (bos_id,),
        eos_ids=eos_ids,
        vocab_size=None,
        sha256=None,
    )


def _read_json(path: Path) -> dict[str, Any]:
    """An object; empty if the file is not there. Raises: UserError if it holds something else."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold an object; it holds a {type(content).__name__}")
    return content
