"""Open a model for inference: from a checkpoint, a run's newest complete one, or a Hugging Face folder. All are checked first."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fanal.errors import UserError
from fanal.reason import reason
from fanal.run_folder import DATA, MANIFEST, checkpoints_dir
from fanal.shown import on_one_line
from pretrain.checkpoint.disk.config_file import read_model, saved_data, saved_seq_length
from pretrain.checkpoint.disk.manifest import DamagedCheckpointError, read_small_file
from pretrain.checkpoint.disk.retention import checkpoints_in
from pretrain.checkpoint.disk.tensors import open_tensors
from pretrain.checkpoint.disk.verify import first_whole, is_checkpoint, real_path, still_there
from pretrain.config.derive import num_tokens
from pretrain.config.schema import ModelConfig
from pretrain.convert.importing.assemble import assemble
from pretrain.convert.ours.import_record import IMPORTED_FILES, read_import
from pretrain.convert.ours.other_ids import sign_of_other_ids
from pretrain.convert.ours.source import check_has
from pretrain.convert.theirs.certified import read_certified, say_unproved
from pretrain.convert.theirs.read_config import CONFIG_JSON, read_hf_config
from pretrain.convert.theirs.text import TextCodec, open_codec
from pretrain.convert.theirs.weights import open_hf_weights
from pretrain.optim.registry import MASTER
from tokenizer.vocabulary.pieces import contradiction, difference, pieces_in


@dataclass(frozen=True, kw_only=True)
class OpenModel:
    """Weights and tokenizer of a model."""

    folder: Path
    """Folder of the checkpoint, or the Hugging Face folder."""
    model: ModelConfig
    max_length: int
    """Number of tokens in the longest sequence the model was made for."""
    read: Callable[[str], np.ndarray]
    """Reader of a whole tensor by the trainer's name, as float32: of a checkpoint the master values."""
    codec: TextCodec

    @property
    def vocab_size(self) -> int:
        """Number of tokens it can generate: ids that the tokenizer does not have are left out, as in an export."""
        return num_tokens(self.model, tokenizer_vocab_size=self.codec.vocab_size or self.model.vocab_size)


@contextlib.contextmanager
def open_model(
    path: str | Path, *, tokenizer: str | Path | None = None, deep: bool = False, weights_state: str = MASTER
) -> Iterator[OpenModel]:
    """Open the model at a path for the duration of a block.

    Args: tokenizer: its folder, in place of the one that the checkpoint's config names or the Hugging Face folder holds;
        deep: compare the tensors of a checkpoint with its manifest too, not their sizes alone. All else is always compared, and
        so is every file of an export, with its certificate; weights_state: what of a checkpoint the weights are, the masters or
        their moving average.
    Raises: UserError if there is no model, or no tokenizer; DamagedCheckpointError if no checkpoint there is complete;
    DamagedExportError.
    """
    folder = Path(path)
    instead = Path(tokenizer) if tokenizer is not None else None
    if (folder / CONFIG_JSON).exists() and not (folder / MANIFEST).exists():
        if weights_state != MASTER:
            raise UserError(
                f"--ema needs a checkpoint, which may hold the moving average beside the weights, and {folder} is a Hugging Face "
                "folder; without --ema it works"
            )
        with _open_folder(folder, instead) as opened:
            yield opened
        return
    checkpoint = _whole_checkpoint(folder, deep=deep)
    with still_there(checkpoint), open_tensors(checkpoint) as reader:
        check_has(checkpoint, weights_state)
        yield OpenModel(
            folder=checkpoint,
            model=read_model(checkpoint),
            max_length=saved_seq_length(checkpoint),
            read=lambda name: reader.read_all(name, weights_state),
            codec=_codec_of_checkpoint(checkpoint, instead),
        )


@contextlib.contextmanager
def _open_folder(folder: Path, instead: Path | None) -> Iterator[OpenModel]:
    if (certified := read_certified(folder)) is not None:
        certified.check()
    found = read_hf_config(folder)
    codec = _codec_of_folder(folder, instead, config=found.content, vocab_size=found.model.vocab_size)
    with open_hf_weights(folder) as weights:
        assembly = assemble(weights, found.model)
        say_unproved(folder, certified)
        yield OpenModel(
            folder=folder, model=found.model, max_length=found.max_positions, read=assembly.read, codec=codec
        )


def _codec_of_folder(folder: Path, instead: Path | None, *, config: dict[str, Any], vocab_size: int) -> TextCodec:
    """Open the tokenizer that came with a model of another program, or the one that a user names in its place, with a warning if
    the two are not the same. Raises: UserError, also if the one that came with the model cannot be its own."""
    if instead is None:
        codec = open_codec(folder, config=config, vocab_size=vocab_size)
        if (wrong := contradiction(folder, vocab_size=vocab_size)) is not None:
            raise UserError(f"{wrong}; give the folder of the model's own with --tokenizer DIR")
        return codec
    codec = _codec_in_place(instead, config=config)
    theirs, named = (next(iter(pieces_in(place).values()), None) for place in (folder, instead))
    if theirs is not None and named is not None and (differs := difference(theirs, named)) is not None:
        print(
            f"warning: --tokenizer ({instead}) is not the tokenizer that came with {folder}: {differs}", file=sys.stderr
        )
    return codec


def _codec_in_place(folder: Path, *, config: dict[str, Any] | None = None) -> TextCodec:
    """Open the tokenizer that a user names; of an export, as its certificate describes it. Raises: as ``open_model``."""
    if (certified := read_certified(folder)) is not None:
        certified.check(weights=False)
    if config is None and folder.name == IMPORTED_FILES and (imported := read_import(folder.parent)) is not None:
        config = imported.config
    return open_codec(folder, config=config)


def _whole_checkpoint(path: Path, *, deep: bool) -> Path:
    """Return the checkpoint at a path, or the newest complete one of the run there, with a warning about each newer one."""
    candidates = [real_path(path)] if is_checkpoint(path) else checkpoints_in(checkpoints_dir(path))
    if not candidates:
        raise UserError(
            f"CHECKPOINT_OR_HF_DIR ({path}) must be a checkpoint's folder, a run's folder with one in it, or a Hugging Face "
            "folder; runs/tiny works once that run has saved"
        )
    finding, problems = first_whole(candidates, deep=deep)
    for problem in problems:
        print(f"warning: {on_one_line(problem)}", file=sys.stderr)
    return finding.folder


def _codec_of_checkpoint(checkpoint: Path, instead: Path | None) -> TextCodec:
    imported = read_import(checkpoint)
    if imported is not None:
        if not imported.has_proved_tokenizer and instead is None:
            print(
                f"note: the tokenizer is the one that {on_one_line(imported.name)} came with; nothing tells whether it is the "
                "model's",
                file=sys.stderr,
            )
        vocab_size = read_model(checkpoint).vocab_size
        return _codec_of_folder(checkpoint / IMPORTED_FILES, instead, config=imported.config, vocab_size=vocab_size)
    named = saved_data(checkpoint).get("tokenizer")
    if instead is None and named is None:
        raise UserError(f"the config of {checkpoint} names no tokenizer; give its folder with --tokenizer DIR")
    folder = instead or Path(str(named))
    if not folder.is_dir():
        raise UserError(
            f"the tokenizer of {checkpoint} was not found: its config names {folder}; give the folder it is in now with "
            "--tokenizer DIR"
            if instead is None
            else f"--tokenizer ({folder}) must be a folder, and is not one; give the folder that holds the tokenizer's files"
        )
    if instead is None and (sign := sign_of_other_ids(checkpoint, folder)) is not None:
        raise UserError(
            f"data.tokenizer ({folder}) of {checkpoint} need not be the one whose ids its model knows: {sign}; name the right one "
            "with --tokenizer DIR, such as the folder imported/ of an imported checkpoint"
        )
    codec, trained_with = _codec_in_place(folder), _tokenizer_sha256(checkpoint)
    if codec.sha256 is not None and trained_with is not None and codec.sha256 != trained_with:
        raise UserError(
            f"the tokenizer in {folder} (sha256 {codec.sha256[:12]}) must be the one that {checkpoint} was trained with (sha256 "
            f"{trained_with[:12]}); give the folder of that one with --tokenizer DIR"
        )
    return codec


def _tokenizer_sha256(checkpoint: Path) -> str | None:
    """Return the hash of the tokenizer of the data the run has read; None if it has read none. Raises: DamagedCheckpointError."""
    path = checkpoint / DATA
    if not path.is_file():
        return None
    content = read_small_file(path)
    try:
        return json.loads(content)["tokenizer_sha256"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedCheckpointError(f"{path} is not the data position of a checkpoint ({reason(error)})") from None
