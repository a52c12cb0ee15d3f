"""Convert text to a model's ids and back, with a tokenizer folder of ours or the files of a Hugging Face folder."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fanal.errors import UserError, error_type
from fanal.files import reading
from fanal.links import read_inside
from fanal.plain_files import MAX_TOKENIZER_BYTES
from fanal.shown import kind_of
from pretrain.convert.ours.token_ids import BOS, EOS, token_ids
from tokenizer.vocabulary.folder import INFO_NAME, TITLES
from tokenizer.vocabulary.load import load_tokenizer
from tokenizer.vocabulary.pieces import processor_of

TOKENIZER_JSON, SENTENCEPIECE_MODEL = "tokenizer.json", "tokenizer.model"


@dataclass(frozen=True, kw_only=True)
class TextCodec:
    """The conversion between text and a model's ids."""

    encode: Callable[[str], list[int]]
    """Function from a text to its ids, without those that start or end a document."""
    decode: Callable[[list[int]], str]
    """Function from ids to their text; special ids are left out."""
    first_ids: tuple[int, ...]
    """Ids that a document starts with: BOS, or nothing."""
    eos_ids: frozenset[int]
    """Ids that end a document."""
    vocab_size: int | None
    """Number of ids the tokenizer knows; None where only the model's config states it."""
    sha256: str | None
    """Hash by which shards name a tokenizer of a folder of ours; else None."""


def open_codec(folder: Path, *, config: dict[str, Any] | None = None, vocab_size: int | None = None) -> TextCodec:
    """Open the tokenizer in a folder: ours, or Hugging Face's.

    Args: config: the ``config.json`` of the model, if the folder has no copy of it; read for the ids of BOS and EOS;
        vocab_size: vocabulary of the model, where the tokenizer is its own: no id may be beyond it.
    Raises: UserError if there is no tokenizer, or if an id is not valid.
    """
    if (folder / INFO_NAME).exists():
        tokenizer = load_tokenizer(folder)
        return TextCodec(
            encode=lambda text: tokenizer.encode_batch([text], num_threads=1)[0].tolist(),
            decode=tokenizer.decode,
            first_ids=(tokenizer.bos_id,) if tokenizer.adds_bos and tokenizer.bos_id is not None else (),
            eos_ids=frozenset({tokenizer.eos_id}),
            vocab_size=tokenizer.vocab_size,
            sha256=tokenizer.model_sha256,
        )
    ids = token_ids(_read_json(folder, "config.json") | (config or {}), folder / "config.json", vocab_size=vocab_size)
    generation = "generation_config.json"
    ids |= token_ids(_read_json(folder, generation), folder / generation, vocab_size=vocab_size)
    bos_id, eos = ids.get(BOS), ids.get(EOS)
    assert not isinstance(bos_id, list), "only EOS may be a list"
    eos_ids = frozenset(eos if isinstance(eos, list) else [] if eos is None else [eos])
    if (folder / TOKENIZER_JSON).exists():
        return _from_tokenizer_json(folder, bos_id, eos_ids)
    if (folder / SENTENCEPIECE_MODEL).exists():
        return _from_sentencepiece(folder / SENTENCEPIECE_MODEL, bos_id, eos_ids)
    raise UserError(
        f"{folder} has no tokenizer: neither {INFO_NAME} nor {TOKENIZER_JSON} nor {SENTENCEPIECE_MODEL} is in it; give the folder "
        "of one with --tokenizer DIR"
    )


def read_tokenizer_json(path: Path) -> Any:
    """Read a ``tokenizers.Tokenizer``.

    Raises: UserError if the library is not installed, or does not read the file; as ``reading``; as ``open_inside``.
    """
    try:
        import tokenizers
    except ImportError:
        raise UserError(
            f"{path} needs the library tokenizers, which is not installed; pip install 'fanal[hf]' installs it"
        ) from None
    with reading(path):
        content = read_inside(path.parent, path.name, max_bytes=MAX_TOKENIZER_BYTES)
    try:
        return tokenizers.Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises nothing narrower
        raise UserError(
            f"{path} is not a tokenizer that the library tokenizers can read ({error}); copy it again"
        ) from None


def _from_tokenizer_json(folder: Path, bos_id: int | None, eos_ids: frozenset[int]) -> TextCodec:
    tokenizer = read_tokenizer_json(folder / TOKENIZER_JSON)
    # To a model of ours a "</s>" in a prompt is text, from its checkpoint and from its export alike; a model that was made
    # elsewhere may have been tuned on turns whose markers one types.
    tokenizer.encode_special_tokens = _is_ours(folder)
    starts_with_bos = tokenizer.encode("").ids == [bos_id] or _read_json(folder, "tokenizer_config.json").get(
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


def _is_ours(folder: Path) -> bool:
    """Return whether the model was trained here: the certificate of an export has compared the tokenizers of such ones alone."""
    figures = _read_json(folder, "certificate.json").get("figures")
    tokenizer = figures.get("tokenizer") if isinstance(figures, dict) else None
    return isinstance(tokenizer, dict) and tokenizer.get("oracle") in TITLES.values()


def _from_sentencepiece(path: Path, bos_id: int | None, eos_ids: frozenset[int]) -> TextCodec:
    """Open the SentencePiece model of a folder without tokenizer.json, as some of Llama 1 and 2 are."""
    try:
        model = read_inside(path.parent, path.name, max_bytes=MAX_TOKENIZER_BYTES)
        processor = processor_of(model)
    except (OSError, RuntimeError) as error:
        raise error_type(error)(f"{path} is not a SentencePiece model ({error}); copy it again") from None
    return TextCodec(
        encode=lambda text: processor.Encode(text),
        decode=lambda ids: processor.Decode([token for token in ids if token < processor.GetPieceSize()]),
        first_ids=() if bos_id is None else (bos_id,),
        eos_ids=eos_ids,
        vocab_size=None,
        sha256=None,
    )


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    """Read a JSON object; empty if there is no file. Raises: UserError if it holds something else; as ``reading``; as
    ``open_inside``."""
    path = folder / name
    if not path.exists():
        return {}
    with reading(path):
        text = read_inside(folder, name)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); copy it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold an object; it holds {kind_of(content)}; copy it again")
    return content
