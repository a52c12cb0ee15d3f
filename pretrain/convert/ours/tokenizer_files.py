"""The tokenizer's files of an export: ours with what `transformers` wants beside it, or an import's as they came."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import sentencepiece

from fanal.errors import UserError, error_type
from pretrain.checkpoint.disk.manifest import DamagedCheckpointError, read_small_file
from pretrain.config.schema import DataConfig
from pretrain.convert.ours.import_record import IMPORT, IMPORTED_FILES, TOKENIZER_FILES, TOKENIZERS, ImportRecord
from pretrain.convert.ours.token_ids import BOS, EOS, PAD, TokenId, SpecialTokenIdError, token_ids
from pretrain.data.position import DataPosition
from pretrain.data.sources import Sources
from tokenizer.vocabulary.load import FAST_NAME, MODEL_NAME, Tokenizer, load_tokenizer
from tokenizer.vocabulary.spec import CONTROL_PIECES


@dataclass(frozen=True, kw_only=True)
class ExportTokenizer:
    """What an export says about text and ids."""

    files: dict[str, bytes]
    """By their names in the exported folder."""
    vocab_size: int
    """Ids it knows; rows of the embedding beyond are left out."""
    bos_id: TokenId
    eos_id: TokenId
    pad_id: TokenId
    adds_bos: bool
    """Whether a text gets a BOS in front, as the documents of the shards did."""
    processor: sentencepiece.SentencePieceProcessor | None
    """The oracle of its ids; None for an import without a SentencePiece model."""
    prepare: Callable[[str], str]
    """What happens to a text before ``processor`` sees it."""
    is_ours: bool
    """Made by this project: then every id must be the oracle's."""
    sha256: str | None
    """Of the SentencePiece model."""

    @property
    def is_there(self) -> bool:
        """Whether ``transformers`` finds a tokenizer in the export; an import may have come without one."""
        return not TOKENIZERS.isdisjoint(self.files)


def tokenizer_of_run(
    data: DataConfig, position: DataPosition | None, sources: Sources | None, *, adds_bos: bool | None
) -> ExportTokenizer:
    """The tokenizer that a run was trained with.

    Args: adds_bos: whether documents began with BOS; None asks the shards.
    Raises: UserError if it is not there, was altered, or is another than the one whose ids were trained on.
    """
    try:
        tokenizer = load_tokenizer(data.tokenizer)
    except UserError as error:
        raise UserError(
            f"{error}. For an export: data.tokenizer=DIR after the arguments says where it is now"
        ) from None
    if position is not None and position.tokenizer_sha256 != tokenizer.model_sha256:
        raise UserError(
            f"data.tokenizer ({data.tokenizer}) is {tokenizer.model_sha256[:12]}, and the checkpoint was trained on ids of "
            f"{position.tokenizer_sha256[:12]}; data.tokenizer=DIR names the folder of that one"
        )
    if adds_bos is None:
        if sources is None:
            raise UserError(
                "without the shards nothing says whether documents began with BOS; --bos or --no-bos says it (`tokenizer encode` "
                "puts it there unless told not to)"
            )
        adds_bos = all(source.shard.manifest.options.append_bos for source in sources.train)
    return ExportTokenizer(
        files=_files(tokenizer, adds_bos),
        vocab_size=tokenizer.vocab_size,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
        adds_bos=adds_bos,
        processor=tokenizer.processor,
        prepare=tokenizer.spec.prepare,
        is_ours=True,
        sha256=tokenizer.model_sha256,
    )


def tokenizer_of_import(folder: Path, imported: ImportRecord, *, vocab_size: int) -> ExportTokenizer:
    """The tokenizer of an imported checkpoint: its files as they came.

    Raises: UserError, DamagedCheckpointError if an older version has imported what cannot be one.
    """
    try:
        ids = token_ids(imported.config, folder / IMPORT, vocab_size=vocab_size)
    except SpecialTokenIdError as error:
        raise UserError(
            f"{error}. Mend config.json in the folder that this comes from, and import that again"
        ) from None
    inside = folder / IMPORTED_FILES
    files = {name: (inside / name).read_bytes() for name in TOKENIZER_FILES if (inside / name).is_file()}
    return ExportTokenizer(
        files=files,
        vocab_size=vocab_size,
        bos_id=ids.get(BOS),
        eos_id=ids.get(EOS),
        pad_id=ids.get(PAD),
        adds_bos=False,
        processor=_processor(inside / MODEL_NAME) if MODEL_NAME in files else None,
        prepare=lambda text: text,
        is_ours=False,
        sha256=None,
    )


def _processor(path: Path) -> sentencepiece.SentencePieceProcessor:
    try:
        if not path.stat().st_size:
            raise RuntimeError("it is empty")
        return sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise error_type(error, DamagedCheckpointError)(
            f"{path} is no SentencePiece model ({error}); import the folder again"
        ) from None


def _files(tokenizer: Tokenizer, adds_bos: bool) -> dict[str, bytes]:
    bos, eos, unknown, pad = CONTROL_PIECES
    special = {"bos_token": bos, "eos_token": eos, "unk_token": unknown, "pad_token": pad}
    config = {
        # The plain wrapper of tokenizer.json. Llama's own class would build a tokenizer anew, with rules of its own.
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special,
        # transformers looks for special tokens in a text; without this a "<s>" in a text would be a BOS.
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    fast = read_small_file(tokenizer.directory / FAST_NAME)
    return {
        FAST_NAME: _with_bos(fast, bos, tokenizer.bos_id) if adds_bos else fast,
        MODEL_NAME: read_small_file(tokenizer.directory / MODEL_NAME),
        "tokenizer_config.json": json_bytes(config),
        "special_tokens_map.json": json_bytes(special),
    }


def _with_bos(fast: bytes, bos: str, bos_id: int) -> bytes:
    """tokenizer.json with a BOS in front of each text, as each document of the shards has one."""
    content = json.loads(fast)
    token = {"SpecialToken": {"id": bos, "type_id": 0}}
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [token, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [token, *({"Sequence": {"id": name, "type_id": 0}} for name in "AB")],
        "special_tokens": {bos: {"id": bos, "ids": [bos_id], "tokens": [bos]}},
    }
    return json_bytes(content)


def json_bytes(content: object) -> bytes:
    """A JSON file: the same bytes for the same content."""
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
