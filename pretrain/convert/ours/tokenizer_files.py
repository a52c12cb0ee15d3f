"""The tokenizer's files of an export: ours with the files that `transformers` needs, or an import's own."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece

from fanal.errors import UserError
from fanal.files import reading
from fanal.links import mode_of_copies, read_inside
from fanal.plain_files import MAX_TOKENIZER_BYTES
from pretrain.checkpoint.disk.manifest import DamagedCheckpointError
from pretrain.config.schema import DataConfig
from pretrain.convert.ours.code_keys import code_named_in, without_code
from pretrain.convert.ours.import_record import IMPORT, IMPORTED_FILES, TOKENIZER_FILES, TOKENIZERS, ImportRecord
from pretrain.convert.ours.token_ids import BOS, EOS, PAD, SpecialTokenIdError, TokenId, token_ids
from pretrain.data.position import DataPosition
from pretrain.data.sources import Sources
from tokenizer.vocabulary.folder import FAST_NAME, MODEL_NAME, Tokenizer
from tokenizer.vocabulary.imported import ImportedTokenizer
from tokenizer.vocabulary.load import load_tokenizer
from tokenizer.vocabulary.pieces import contradiction, processor_of
from tokenizer.vocabulary.spec import CONTROL_PIECES, UNK_ID
from tokenizer.vocabulary.trained import TrainedTokenizer


@dataclass(frozen=True, kw_only=True)
class ExportTokenizer:
    """The tokenizer of an export: its files, its ids, and the oracle to compare them with."""

    files: dict[str, bytes]
    """Contents of the files by their names in the exported folder."""
    vocab_size: int
    """Number of ids it knows; rows of the embedding beyond are left out."""
    bos_id: TokenId
    eos_id: TokenId
    pad_id: TokenId
    adds_bos: bool
    """Whether a text gets a BOS in front, as the documents of the shards did."""
    encode: Callable[[str], list[int]] | None
    """Function from a text to its ids; None for an import without a SentencePiece model."""
    oracle: Tokenizer | None
    """The tokenizer whose ids were trained on, and which every id must agree with; None for an import, where nothing says so."""
    sha256: str | None
    """Hash by which shards name the tokenizer; None for an import."""
    has_original_files: bool = False
    """Whether the files are those of a folder that was imported, byte for byte but for keys that name code."""
    mode: int = 0o666
    """Mode of copies: nobody may read one who may not read the file it was made from."""

    @property
    def is_there(self) -> bool:
        """Whether ``transformers`` finds a tokenizer in the export; an imported folder may have none."""
        return not TOKENIZERS.isdisjoint(self.files)


def tokenizer_of_run(
    data: DataConfig, position: DataPosition | None, sources: Sources | None, *, adds_bos: bool | None
) -> ExportTokenizer:
    """Load the tokenizer that a run was trained with.

    Args: adds_bos: whether documents start with BOS; None reads it from the shards.
    Raises: UserError if it is missing, was altered, or is not the one whose ids were trained on.
    """
    try:
        tokenizer = load_tokenizer(data.tokenizer)
    except UserError as error:
        raise UserError(f"{error}. For an export, give its new place as the argument data.tokenizer=DIR") from None
    if position is not None and position.tokenizer_sha256 != tokenizer.model_sha256:
        raise UserError(
            f"data.tokenizer ({data.tokenizer}, sha256 {tokenizer.model_sha256[:12]}) must be the one that the checkpoint was "
            f"trained with (sha256 {position.tokenizer_sha256[:12]}); give the folder of that one with data.tokenizer=DIR"
        )
    if isinstance(tokenizer, ImportedTokenizer):
        if adds_bos not in (None, tokenizer.adds_bos):
            raise UserError(
                f"{'--bos' if adds_bos else '--no-bos'} must be left out: the tokenizer in {data.tokenizer} was imported, an "
                f"export keeps its files as they are, and they put {'a' if tokenizer.adds_bos else 'no'} BOS in front of a text"
            )
        _say_other_start(tokenizer, sources)
        files, adds_bos = original_files(tokenizer.files), tokenizer.adds_bos
    else:
        assert isinstance(tokenizer, TrainedTokenizer), "there are two kinds"
        adds_bos = _shards_begin_with_bos(sources) if adds_bos is None else adds_bos
        files = hf_files(tokenizer, adds_bos=adds_bos)
    return ExportTokenizer(
        files=files,
        vocab_size=tokenizer.vocab_size,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
        adds_bos=adds_bos,
        encode=lambda text: tokenizer.encode_batch([text], num_threads=1)[0].tolist(),
        oracle=tokenizer,
        sha256=tokenizer.model_sha256,
        has_original_files=isinstance(tokenizer, ImportedTokenizer),
        mode=mode_of_copies(tokenizer.directory, [name for name in files if (tokenizer.directory / name).is_file()]),
    )


def _shards_begin_with_bos(sources: Sources | None) -> bool:
    if sources is None:
        raise UserError(
            "without the shards it is not known whether documents start with BOS; state it with --bos or --no-bos (`tokenizer "
            "encode` adds BOS by default)"
        )
    return all(source.shard.manifest.options.append_bos for source in sources.train)


def _say_other_start(tokenizer: Tokenizer, sources: Sources | None) -> None:
    """Say that a text begins otherwise in the export than documents did in training, as the tokenizer's own files want it."""
    found = {source.shard.manifest.options.append_bos for source in sources.train} if sources is not None else set()
    if found - {tokenizer.adds_bos}:
        does, did = ("puts a BOS", "without one") if tokenizer.adds_bos else ("puts no BOS", "with one")
        print(
            f"warning: the tokenizer of this export, whose files are kept as they were, {does} in front of a text, and documents "
            f"of the training shards start {did}",
            file=sys.stderr,
        )


def tokenizer_of_import(folder: Path, imported: ImportRecord, *, vocab_size: int) -> ExportTokenizer:
    """Return the tokenizer of an imported checkpoint, with its files unchanged but for keys that name code, which are left out
    (code_keys.py), as a note says.

    Raises: UserError, DamagedCheckpointError if an older version has imported a tokenizer that is not valid.
    """
    try:
        ids = token_ids(imported.config, folder / IMPORT, vocab_size=vocab_size)
    except SpecialTokenIdError as error:
        raise UserError(
            f"{error}. Correct config.json in the folder that this was imported from, and import it again"
        ) from None
    inside = folder / IMPORTED_FILES
    if (wrong := contradiction(inside, vocab_size=vocab_size)) is not None:
        raise UserError(f"{wrong}. Correct that in the folder that this was imported from, and import it again")
    files = {name: _read(inside, name) for name in TOKENIZER_FILES if (inside / name).is_file()}
    return ExportTokenizer(
        files=original_files(files),
        vocab_size=vocab_size,
        bos_id=ids.get(BOS),
        eos_id=ids.get(EOS),
        pad_id=ids.get(PAD),
        adds_bos=False,
        encode=_processor(inside / MODEL_NAME, files[MODEL_NAME]).Encode if MODEL_NAME in files else None,
        oracle=None,
        sha256=None,
        mode=mode_of_copies(inside, files) if files else 0o666,
    )


def original_files(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of a folder that was imported, without keys that name code (code_keys.py), as a note says."""
    if code := code_named_in(files):
        print(
            f"note: the export leaves out {', '.join(code)}, by which the folder this was imported from has its reader run code",
            file=sys.stderr,
        )
    return without_code(files)


def _read(folder: Path, name: str) -> bytes:
    with reading(folder / name):
        return read_inside(folder, name, max_bytes=MAX_TOKENIZER_BYTES)


def _processor(path: Path, model: bytes) -> sentencepiece.SentencePieceProcessor:
    try:
        return processor_of(model)
    except RuntimeError as error:
        raise DamagedCheckpointError(
            f"{path} is not a SentencePiece model ({error}); import the folder again"
        ) from None


def hf_files(tokenizer: TrainedTokenizer, *, adds_bos: bool) -> dict[str, bytes]:
    """Return a tokenizer's files for an export, from which every program reads the same ids (``make interop``)."""
    bos, eos, unknown, pad = CONTROL_PIECES
    special = {"bos_token": bos, "eos_token": eos, "unk_token": unknown, "pad_token": pad}
    content = json.loads(_read(tokenizer.directory, FAST_NAME))
    added = _added_tokens(tokenizer, content["added_tokens"])
    content["added_tokens"] = added
    content["decoder"]["decoders"] = [step for step in content["decoder"]["decoders"] if not _drops_pieces(step)]
    if adds_bos and tokenizer.bos_id is not None:
        content["post_processor"] = _bos_in_front(bos, tokenizer.bos_id)
    config = {
        # The plain wrapper of tokenizer.json. Llama's own class would build a tokenizer anew, with rules of its own.
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special,
        # llama.cpp's converter reads these, and takes a Llama to add both a BOS and a space where nothing is said.
        "add_bos_token": adds_bos,
        "add_eos_token": False,
        "add_prefix_space": False,
        # For the converter as well: which pieces are cut out of a text first, and which no text gives.
        "added_tokens_decoder": {str(token["id"]): _without_id(token) for token in added},
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    return {
        FAST_NAME: json_bytes(content),
        MODEL_NAME: _read(tokenizer.directory, MODEL_NAME),
        "tokenizer_config.json": json_bytes(config),
        "special_tokens_map.json": json_bytes(special),
    }


def _added_tokens(tokenizer: TrainedTokenizer, user_defined: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the added tokens of tokenizer.json by id: the control pieces as special ones, and those it has.

    As special tokens their names match in a text, since a chat template is text and has to say them; ``split_special_tokens``
    reads a text as training did, which never makes one.
    """
    kind = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    pieces = {number: tokenizer.processor.IdToPiece(number) for number in (*tokenizer.control_ids, UNK_ID)}
    control = [{"id": number, "content": piece, **kind} for number, piece in pieces.items()]
    return sorted([*control, *user_defined], key=lambda token: token["id"])


def _without_id(token: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in token.items() if key != "id"}


def _drops_pieces(step: dict[str, Any]) -> bool:
    """Return whether a step of the decoder turns tokens into nothing.

    The tokenizer's own file has one for the control pieces. In an export skip_special_tokens does that, and a BOS that always
    decodes to "" makes lm-eval believe that every text begins with one.
    """
    return step["type"] == "Replace" and step["content"] == ""


def _bos_in_front(bos: str, bos_id: int) -> dict[str, Any]:
    """Return the post-processor that puts a BOS in front of each text, like each document of the shards."""
    token = {"SpecialToken": {"id": bos, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [token, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [token, *({"Sequence": {"id": name, "type_id": 0}} for name in "AB")],
        "special_tokens": {bos: {"id": bos, "ids": [bos_id], "tokens": [bos]}},
    }


def json_bytes(content: object) -> bytes:
    """Return a JSON file: the same bytes for the same content."""
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
