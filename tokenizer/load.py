"""A trained tokenizer's folder, opened and checked.

tokenizer.model       the SentencePiece model
tokenizer-info.json   what it is and what it was trained on (TokenizerInfo); holds the model's hash
spec.yaml             the spec it was trained from, every default written out
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece

from tokenizer.files import InputFile, read_record

MODEL_NAME, INFO_NAME, SPEC_NAME = "tokenizer.model", "tokenizer-info.json", "spec.yaml"


@dataclass(frozen=True, kw_only=True)
class TokenizerInfo:
    """What tokenizer-info.json holds."""

    format_version: int
    """1."""
    vocab_size: int
    """Number of ids."""
    model_sha256: str
    """Of tokenizer.model; every shard names its tokenizer by it."""
    bos_id: int
    eos_id: int
    unk_id: int
    pad_id: int
    text_field: str
    """Field of the input lines that was read."""
    num_documents: int
    """Documents trained on."""
    num_text_bytes: int
    """Text trained on, in UTF-8 bytes."""
    input_files: tuple[InputFile, ...]
    sentencepiece_version: str


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """Text to ids and back."""

    directory: Path
    processor: sentencepiece.SentencePieceProcessor
    vocab_size: int
    """Number of ids; every id is in [0, vocab_size)."""
    model_sha256: str
    bos_id: int
    eos_id: int
    unk_id: int
    pad_id: int
    control_ids: tuple[int, ...]
    """Ids that no text produces: the four special ones (unk aside) and the reserved tokens."""

    def encode_batch(self, texts: list[str], *, num_threads: int) -> list[np.ndarray]:
        """Ids of each text, without BOS and EOS: int32 [number of tokens] each, whatever num_threads is."""
        return self.processor.Encode(texts, out_type="numpy", num_threads=num_threads)

    def decode(self, ids: list[int]) -> str:
        """The text of ids; control tokens are left out."""
        return self.processor.Decode(ids)


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """Open a tokenizer folder.

    Raises: ValueError naming the path if a file is missing or unreadable, or if tokenizer.model is not the one that
    tokenizer-info.json describes.
    """
    directory = Path(directory)
    mend = "train it again with `python -m tokenizer train`, or copy the whole folder again"
    if not directory.is_dir():
        raise ValueError(f"tokenizer folder {directory} does not exist; {mend}")
    info = read_record(TokenizerInfo, directory / INFO_NAME, mend=mend)
    path = directory / MODEL_NAME
    try:
        model = path.read_bytes()
    except OSError as problem:
        raise ValueError(f"{path} cannot be read ({problem.strerror}); {mend}") from None
    found = hashlib.sha256(model).hexdigest()
    if found != info.model_sha256:
        raise ValueError(f"{path} has sha256 {found}, but {INFO_NAME} says {info.model_sha256}: it was altered; {mend}")
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    ids = {
        "vocab_size": processor.GetPieceSize(),
        "bos_id": processor.bos_id(),
        "eos_id": processor.eos_id(),
        "unk_id": processor.unk_id(),
        "pad_id": processor.pad_id(),
    }
    for name, value in ids.items():
        if value != getattr(info, name):
            raise ValueError(f"{path} has {name} {value}, but {INFO_NAME} says {getattr(info, name)}; {mend}")
    return Tokenizer(
        directory=directory,
        processor=processor,
        model_sha256=found,
        control_ids=tuple(i for i in range(ids["vocab_size"]) if processor.IsControl(i)),
        **ids,
    )
