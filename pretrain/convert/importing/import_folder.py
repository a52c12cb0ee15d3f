"""``pretrain import``: a Hugging Face folder -> a checkpoint of its weights, which training starts from in any layout.

Streaming: a block of rows is in memory at a time. It is written as CHECKPOINT.part and renamed once it is complete. Nothing in
the folder is executed: only JSON and numbers are read.
"""

import contextlib
import dataclasses
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from fanal.errors import UserError
from fanal.free_space import nearest_folder, shortage
from fanal.links import mode_of_copies
from fanal.new_files import write_new
from fanal.part_folder import part_folder
from fanal.progress import Progress
from fanal.run_folder import COMPLETE, CONFIG, MANIFEST, SHARDS, STATE, TENSORS
from pretrain.checkpoint.disk.manifest import describe
from pretrain.checkpoint.disk.masters import write_masters
from pretrain.checkpoint.disk.sealing import SaveError, seal
from pretrain.checkpoint.disk.state_file import state_text
from pretrain.checkpoint.disk.tensor_index import TensorIndex, index_text
from pretrain.convert.importing.assemble import Assembly, assemble
from pretrain.convert.importing.kept_files import has_tokenizer, read_kept_files
from pretrain.convert.ours.code_keys import code_named_in
from pretrain.convert.ours.import_record import IMPORT, IMPORTED_FILES, import_text
from pretrain.convert.ours.published import PublishedFile, describe_published
from pretrain.convert.ours.target import harm_of, named
from pretrain.convert.theirs.certified import Certified, describe_linked, read_certified, say_unproved
from pretrain.convert.theirs.read_config import CONFIG_JSON, HfModel, read_hf_config
from pretrain.convert.theirs.weights import INDEX_JSON, HfWeights, open_hf_weights
from pretrain.optim.registry import MASTER
from pretrain.state import TrainState

OUR_NAMES = {SHARDS, STATE, CONFIG, TENSORS, IMPORT, IMPORTED_FILES, MANIFEST, COMPLETE}
SMALL_FILES_BYTES = 16 << 20


class ImportTargetError(UserError):
    """Error: the checkpoint cannot be written at the requested path; the message names the reason."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Result of an import."""

    checkpoint: Path
    num_parameters: int
    """Number of parameters, the padding of the vocabulary left out."""
    num_bytes: int


def import_hf(hf_dir: str | Path, to: str | Path, *, make_vocab_size_divisible_by: int = 128) -> Imported:
    """Write the checkpoint ``to`` from the folder ``hf_dir``.

    Raises: UnsupportedModelError, BadWeightsError, BadFileError, SpecialTokenIdError, ImportTargetError; DamagedExportError if a
    file is not the one that the folder's certificate names; nothing is left under the
    name ``to`` then.
    """
    folder, final = Path(hf_dir), named(to)
    if make_vocab_size_divisible_by < 1:
        raise ImportTargetError(
            f"make_vocab_size_divisible_by ({make_vocab_size_divisible_by}) must be above 0; 128 works"
        )
    certified = _checked(folder)
    found = read_hf_config(folder, make_vocab_size_divisible_by=make_vocab_size_divisible_by)
    kept = read_kept_files(folder, vocab_size=found.model.vocab_size)
    with open_hf_weights(folder) as weights:
        assembly = assemble(weights, found.model)
        _check_target(final, sum(math.prod(shape) for shape in assembly.shapes.values()) * 4 + SMALL_FILES_BYTES)
        with _part_of(final) as part:
            made = _write(part, final, found, assembly, kept, certified)
    say_unproved(folder, certified)
    if code := code_named_in(kept):
        print(
            f"note: {folder} names code that its reader may run ({', '.join(code)}): it is not run, and an export leaves it out",
            file=sys.stderr,
        )
    if not has_tokenizer(kept):
        print(
            f"warning: {folder} has no tokenizer (tokenizer.json or tokenizer.model): `generate` needs --tokenizer DIR, and "
            "AutoTokenizer cannot load an export of this checkpoint",
            file=sys.stderr,
        )
    return made


def _checked(folder: Path) -> Certified | None:
    """Compare all but the weights with the folder's certificate, if it has one; they are compared with what is read of them.
    Raises: DamagedExportError."""
    certified = read_certified(folder) if folder.is_dir() else None
    if certified is not None:
        certified.check(weights=False)
    return certified


def _write(
    part: Path, final: Path, found: HfModel, assembly: Assembly, kept: Mapping[str, bytes], certified: Certified | None
) -> Imported:
    weights = assembly.weights
    source_bytes = sum((weights.folder / name).stat().st_size for name in weights.files)
    shard_bytes = sum(math.prod(shape) for shape in assembly.shapes.values()) * 4
    mode = mode_of_copies(weights.folder, (CONFIG_JSON, *kept, *weights.files))
    for name, content in kept.items():
        (part / IMPORTED_FILES).mkdir(exist_ok=True)  # a manifest names files, and no empty folder
        write_new(part / IMPORTED_FILES / name, content, mode=mode)
    with Progress(f"import {weights.folder.name}", source_bytes + shard_bytes) as progress:
        read = _describe_source(weights, progress) + [describe_published(part / IMPORTED_FILES, name) for name in kept]
        if certified is not None:
            certified.compare(read)
        dtype = _weights_dtype(weights)
        done_bytes = source_bytes

        def count(num_bytes: int) -> None:
            nonlocal done_bytes
            done_bytes += num_bytes
            progress.update(done_bytes)

        entries, tensors = write_masters(
            part, assembly.shapes, assembly.blocks, weights_dtype=dtype, on_bytes=count, mode=mode
        )
    index = TensorIndex(states=(MASTER,), num_updates=0, weights_dtype=dtype, tensors=tensors)
    texts = {
        STATE: state_text(TrainState()),
        CONFIG: _config_text(found, dtype),
        TENSORS: index_text(index),
        IMPORT: import_text(
            name=weights.folder.resolve().name,
            files=read,
            config=found.content,
            has_proved_tokenizer=certified is not None and certified.has_proved_tokenizer,
        ),
    }
    for name, text in texts.items():
        write_new(part / name, text, mode=mode)
    small = [*texts, *(f"{IMPORTED_FILES}/{name}" for name in kept)]
    entries += [describe(part, name) for name in small]
    try:
        seal(part, final, step=0, entries=entries)
    except SaveError as error:
        raise ImportTargetError(f"CHECKPOINT ({final}) could not be written, and was removed: {error}") from None
    return Imported(
        checkpoint=final,
        num_parameters=_num_parameters(assembly),
        num_bytes=sum(entry.bytes for entry in entries),
    )


def _num_parameters(assembly: Assembly) -> int:
    return sum(
        part.num_rows * math.prod(assembly.shapes[tensor][1:])
        for tensor, parts in assembly.rows.items()
        for part in parts
    )


def _weights_dtype(weights: HfWeights) -> str:
    """Return bfloat16 if every tensor is bfloat16, so that an export writes the same bytes; else float32, which holds all types
    exactly."""
    return "bfloat16" if {entry.dtype for entry in weights.entries.values()} == {"BF16"} else "float32"


def _config_text(found: HfModel, dtype: str) -> str:
    """Return the part of a run's config that an imported model determines."""
    content = {
        "model": dataclasses.asdict(found.model),
        "data": {"seq_length": found.max_positions},
        "train": {"precision": "bf16" if dtype == "bfloat16" else "fp32"},
    }
    return OmegaConf.to_yaml(OmegaConf.create(content))


def _describe_source(weights: HfWeights, progress: Progress) -> list[PublishedFile]:
    """Return size and hash of every file that is read and not copied."""
    names = [CONFIG_JSON, *([INDEX_JSON] if (weights.folder / INDEX_JSON).is_file() else [])]
    entries = [describe_linked(weights.folder, name) for name in names]
    done_bytes = 0
    for name in weights.files:
        entries.append(describe_linked(weights.folder, name))
        done_bytes += entries[-1].bytes
        progress.update(done_bytes)
    return entries


def _check_target(final: Path, needed_bytes: int) -> None:
    harm = harm_of(final, may_be_step_0=True)
    if harm is not None:
        raise ImportTargetError(f"CHECKPOINT ({final}) {harm}")
    is_empty_folder = final.is_dir() and not final.is_symlink() and not any(final.iterdir())
    if os.path.lexists(final) and not is_empty_folder:
        raise ImportTargetError(f"CHECKPOINT ({final}) must not exist yet; choose another name, or remove it")
    lack = shortage(
        nearest_folder(final.absolute().parent),
        "the checkpoint",
        needed_bytes=needed_bytes,
        instead="import to another disk",
    )
    if lack is not None:
        raise ImportTargetError(lack)


def _part_of(final: Path) -> contextlib.AbstractContextManager[Path]:
    """Create the empty folder CHECKPOINT.part, locked by this process; remove it unless the block has renamed it.

    Raises: ImportTargetError if another import is writing it, or if it cannot be written.
    """
    return part_folder(
        final,
        name=f"CHECKPOINT ({final})",
        act="import",
        error=ImportTargetError,
        is_ours=lambda path: path.name in OUR_NAMES,
    )
