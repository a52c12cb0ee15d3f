"""`fanal tokenizer import`: the tokenizer of a Hugging Face folder becomes a tokenizer folder of ours. No code of it is run.

Its files are kept byte for byte. What is proved before the folder gets its name: the library reads it, no name of a control token
gets that token's id from text, and the fast engine gives the library's ids for the whole vocabulary, or is not used.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fanal.errors import UserError, error_type, user_path
from fanal.links import mode_of_copies, read_inside
from fanal.missing import what_is_there
from fanal.plain_files import MAX_TOKENIZER_BYTES
from tokenizer.vocabulary.engine import PROBES
from tokenizer.vocabulary.folder import FAST_NAME, INFO_NAME, MODEL_NAME, Tokenizer
from tokenizer.vocabulary.imported import FORMAT_VERSION, KEPT_FILES, KIND, ImportedInfo, KeptFile
from tokenizer.vocabulary.oracles import Oracle
from tokenizer.vocabulary.pieces import difference, pieces_in
from tokenizer.vocabulary.publish import check_output, publish
from tokenizer.vocabulary.special_tokens import (
    MODEL_CONFIGS,
    SpecialIds,
    Stated,
    open_oracle,
    parse_object,
    special_ids,
)

MAX_VOCAB_SIZE = 1 << 24
"""Most ids of a vocabulary; those in use have some hundred thousand."""


def import_tokenizer(
    hf_dir: str | Path, output_dir: str | Path, *, bos_token: str | None = None, eos_token: str | None = None
) -> Tokenizer:
    """Write the folder ``output_dir`` from the tokenizer's files in ``hf_dir``.

    Args: bos_token, eos_token: the tokens that start and end documents, in place of what the files state.
    Raises: UserError naming the file if there is no tokenizer, one that is not supported or damaged, no token that ends
    documents, or if output_dir exists; as ``open_inside``. Nothing is left under the name ``output_dir`` then.
    """
    folder, output_dir = Path(hf_dir), Path(output_dir)
    check_output(output_dir)
    _check_folder(folder)
    files = {name: _read(folder, name) for name in KEPT_FILES if os.path.lexists(folder / name)}
    stated = Stated.of(folder, files)
    oracle = open_oracle(stated)
    if oracle.vocab_size > MAX_VOCAB_SIZE:
        raise UserError(
            f"HF_DIR ({folder}) has ids up to {oracle.vocab_size - 1:,}, and at most {MAX_VOCAB_SIZE:,} can be told apart; an "
            "added token has such an id: correct it, or remove it"
        )
    _refuse_two_tokenizers(folder)
    configs = {
        name: parse_object(folder / name, _read(folder, name))
        for name in MODEL_CONFIGS
        if os.path.lexists(folder / name)
    }
    ids = special_ids(stated, oracle, configs, bos_token=bos_token, eos_token=eos_token)
    control = oracle.control()
    _refuse_control_from_text(folder, oracle, control)
    info = ImportedInfo(
        format_version=FORMAT_VERSION,
        kind=KIND,
        name=folder.resolve().name,
        vocab_size=oracle.vocab_size,
        ids_sha256=_ids_sha256(files, stated, ids, control),
        bos_id=ids.bos_id,
        eos_id=ids.eos_id,
        unk_id=ids.unk_id,
        pad_id=ids.pad_id,
        adds_bos=ids.adds_bos,
        control_ids=tuple(sorted(control)),
        oracle=oracle.library,
        oracle_version=version(oracle.library),
        proved_engine=None,
        files=tuple(
            KeptFile(path=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
            for name, content in files.items()
        ),
    )
    return publish(output_dir, files, info, mode=mode_of_copies(folder, files))


def _check_folder(folder: Path) -> None:
    with user_path(folder):
        is_there = folder.is_dir()
    if not is_there and folder.exists():
        raise UserError(f"HF_DIR ({folder}) must be a folder, and is not one; the folder that holds its files works")
    if not is_there:
        raise UserError(f"HF_DIR {folder} {what_is_there(folder, suitable=Path.is_dir)}")
    if os.path.lexists(folder / INFO_NAME):
        raise UserError(f"HF_DIR ({folder}) is a tokenizer folder of ours already; --tokenizer {folder} works as it is")
    if not any(os.path.lexists(folder / name) for name in (FAST_NAME, MODEL_NAME)):
        others = [name for name in ("vocab.json", "merges.txt", "vocab.txt") if os.path.lexists(folder / name)]
        found = f" (it has {' and '.join(others)})" if others else ""
        raise UserError(
            f"HF_DIR ({folder}) has no tokenizer: neither {FAST_NAME} nor {MODEL_NAME} is in it{found}; transformers writes the "
            f"first with AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained(...)"
        )


def _read(folder: Path, name: str) -> bytes:
    try:
        return read_inside(folder, name, max_bytes=MAX_TOKENIZER_BYTES)
    except OSError as problem:
        raise error_type(problem)(f"{folder / name} cannot be read ({problem.strerror}); copy it again") from None


def _refuse_two_tokenizers(folder: Path) -> None:
    found = pieces_in(folder)
    if len(found) == 2 and (differs := difference(*found.values())) is not None:
        raise UserError(
            f"{folder / FAST_NAME} and {MODEL_NAME} beside it are two tokenizers: {differs}; remove the one that is not the model's"
        )


def _refuse_control_from_text(folder: Path, oracle: Oracle, control: Mapping[int, str]) -> None:
    """Check that names of control tokens, alone and in a row, are text. Raises: UserError."""
    texts = [*PROBES, *control.values(), "".join(control.values()), *(f" {name} " for name in control.values())]
    for text, ids in zip(texts, oracle.encode_batch(texts, num_threads=1), strict=True):
        if made := control.keys() & set(ids.tolist()):
            token = min(made)
            raise UserError(
                f"{folder} gives the text {text[:40]!r} the special token {control[token]!r} (id {token}), with which documents "
                "would be cut anywhere; a tokenizer whose special tokens no text produces works"
            )


def _ids_sha256(files: Mapping[str, bytes], stated: Stated, ids: SpecialIds, control: Mapping[int, str]) -> str:
    """Return the hash of all that decides which ids documents get. A chat template or a name of a class does not."""
    name = FAST_NAME if FAST_NAME in files else MODEL_NAME
    deciding: dict[str, Any] = {
        "file": name,
        "sha256": hashlib.sha256(files[name]).hexdigest(),
        "added": {str(token): fields for token, fields in stated.added_tokens().items()},
        "control": {str(token): name for token, name in control.items()},
        "special": [ids.bos_id, ids.eos_id, ids.unk_id, ids.pad_id],
    }
    return hashlib.sha256(json.dumps(deciding, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
