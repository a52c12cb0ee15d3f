"""The source of an export: a verified checkpoint, its config, its position in the data, and its tokenizer."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fanal.errors import UserError
from fanal.host_cores import host_cores
from fanal.run_folder import COMPLETE, CONFIG, DATA, checkpoints_dir
from fanal.shown import on_one_line
from pretrain.checkpoint.disk.average_file import Average, described, read_average
from pretrain.checkpoint.disk.config_file import read_model, saved_seq_length
from pretrain.checkpoint.disk.manifest import DamagedCheckpointError, read_small_file
from pretrain.checkpoint.disk.origin import Origin, read_origin
from pretrain.checkpoint.disk.retention import checkpoints_in
from pretrain.checkpoint.disk.state_file import read_state
from pretrain.checkpoint.disk.tensor_index import read_index
from pretrain.checkpoint.disk.verify import Finding, first_whole, is_checkpoint, real_path, still_there
from pretrain.config.load import load_run
from pretrain.config.schema import ModelConfig, RunConfig
from pretrain.convert.ours.import_record import ImportRecord, read_import
from pretrain.convert.ours.names import our_shapes
from pretrain.convert.ours.other_ids import sign_of_other_ids
from pretrain.convert.ours.tokenizer_files import ExportTokenizer, tokenizer_of_import, tokenizer_of_run
from pretrain.data.labels import labelled
from pretrain.data.position import DataPosition, read_position
from pretrain.data.sources import Sources, open_sources
from pretrain.optim.registry import EMA, MASTER
from pretrain.state import TrainState

MAX_THREADS = 8
_WHERE_DATA_LIES = re.compile(r"data\.(tokenizer|train|validation|held_out|phases)([.[].*)?")
"""Keys that may differ from training: they name the places of tokenizer and shards now."""


@dataclass(frozen=True, kw_only=True)
class ExportSource:
    """A complete checkpoint, and what belongs to it."""

    folder: Path
    manifest_sha256: str
    """The hash in its COMPLETE, which covers every byte of the checkpoint."""
    state: TrainState
    model: ModelConfig
    seq_length: int
    weights_dtype: str
    """Precision of the weights in training: ``bfloat16`` or ``float32``."""
    run: RunConfig | None
    """The run's config, with the overrides; None for an import, which has none."""
    position: DataPosition | None
    """Position in the run's data; None where it has read nothing."""
    imported: ImportRecord | None
    """Record of the folder an import comes from; None for a checkpoint that was trained."""
    origin: Origin | None
    """The checkpoint of another run that this run started from."""
    sources: Sources | None
    """The run's shards, opened; None for an import or on request."""
    tokenizer: ExportTokenizer
    average: Average | None = None
    """What the checkpoint is the mean of; None for one that was trained or imported."""
    weights_state: str = MASTER
    """What of the checkpoint its weights are, by its name there: the masters, or their moving average."""

    @property
    def is_in_the_log(self) -> bool:
        """Whether what a run has logged of its losses is of these weights."""
        return self.average is None and self.weights_state == MASTER


def what_the_weights_are(source: ExportSource) -> str | None:
    """Return a phrase on weights that no step has trained; None for those of a run or an import."""
    if source.average is not None:
        return described(source.average)
    if source.weights_state == MASTER:
        return None
    decay = source.run.optim.ema_decay if source.run is not None else None
    return f"exponential moving average of the weights, decay {decay:g} an update (optim.ema_decay of the last session)"


def open_source(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    with_shards: bool = True,
    adds_bos: bool | None = None,
    weights_state: str = MASTER,
) -> ExportSource:
    """Verify a checkpoint, or a run's newest complete one, byte by byte, and open what belongs to it.

    Args: overrides: ``data.tokenizer=DIR`` and the like, where tokenizer or shards have moved; adds_bos: whether documents
        start with BOS, None reads it from the shards; weights_state: what of the checkpoint is exported.
    Raises: UserError if there is no checkpoint, if it has no moving average that was asked for, or if its tokenizer or shards
        are missing or not those of training; DamagedCheckpointError if it, or every one of a run, is damaged; GoneError if its run
        deletes it meanwhile.
    """
    _check_overrides(overrides)
    finding = _whole_checkpoint(Path(path))
    with still_there(finding.folder):
        check_has(finding.folder, weights_state)
        return _open_source(finding, overrides, with_shards=with_shards, adds_bos=adds_bos, weights_state=weights_state)


def _open_source(
    finding: Finding, overrides: Sequence[str], *, with_shards: bool, adds_bos: bool | None, weights_state: str
) -> ExportSource:
    folder = finding.folder
    assert finding.manifest is not None, "a complete checkpoint has a manifest"
    imported = read_import(folder)
    position = read_position(folder / DATA) if (folder / DATA).is_file() else None
    run, sources, seq_length = None, None, saved_seq_length(folder)
    if imported is not None:
        if overrides:
            raise UserError(
                f"override {overrides[0]!r} must be left out: {folder} was imported, and its export gets the tokenizer "
                "that came with it"
            )
        model = read_model(folder)
        tokenizer = tokenizer_of_import(folder, imported, vocab_size=model.vocab_size)
    else:
        run = load_run(folder / CONFIG, overrides)
        model = run.model
        _refuse_other_ids(folder, run, position, with_shards=with_shards)
        sources = _open_shards(run, position) if with_shards else None
        tokenizer = tokenizer_of_run(run.data, position, sources, adds_bos=adds_bos)
    _check_tensors(folder, model)
    return ExportSource(
        folder=folder,
        manifest_sha256=read_small_file(folder / COMPLETE).decode().split()[0],
        state=read_state(folder, step=finding.manifest.step),
        model=model,
        seq_length=seq_length,
        weights_dtype=read_index(folder).weights_dtype,
        run=run,
        position=position,
        imported=imported,
        origin=read_origin(folder),
        sources=sources,
        tokenizer=tokenizer,
        average=read_average(folder),
        weights_state=weights_state,
    )


def check_has(folder: Path, state: str) -> None:
    """Check that a checkpoint holds what is asked for as weights. Raises: UserError."""
    if state not in read_index(folder).states:
        assert state == EMA, "every checkpoint has masters"
        raise UserError(
            f"--ema needs the moving average of a run with optim.ema_decay, and {folder} has none; its weights, without --ema, work"
        )


def _check_overrides(overrides: Sequence[str]) -> None:
    """Check that no override makes config or card state what was not trained. Raises: UserError."""
    for override in overrides:
        key = override.partition("=")[0]
        if not _WHERE_DATA_LIES.fullmatch(key):
            raise UserError(
                f"override {override!r} must set data.tokenizer, data.train, data.validation or data.phases, which name the places "
                f"of tokenizer and shards; {key} stays as it was in training. data.tokenizer=DIR works"
            )


def _whole_checkpoint(path: Path) -> Finding:
    folder = real_path(path)  # not a link's own name: the folder's says which step it must hold
    was_one = folder.is_dir() and re.fullmatch(r"step-\d+\..*", folder.name) is not None
    candidates = [folder] if is_checkpoint(path) or was_one else checkpoints_in(checkpoints_dir(path))
    if not candidates:
        raise UserError(
            f"CHECKPOINT ({path}) must be a checkpoint's folder or a run's folder with one in it; runs/tiny works once that "
            "run has saved"
        )
    finding, problems = first_whole(candidates, deep=True, num_threads=min(MAX_THREADS, host_cores()))
    for problem in problems:
        print(f"warning: a newer checkpoint is damaged: {on_one_line(problem)}", file=sys.stderr)
    return finding


def _refuse_other_ids(folder: Path, run: RunConfig, position: DataPosition | None, *, with_shards: bool) -> None:
    """Refuse to certify with a tokenizer that may be another than the one whose ids were trained on; the shards tell, where they
    are read. Raises: UserError."""
    sign = sign_of_other_ids(folder, Path(run.data.tokenizer))
    if sign is None or (with_shards and not (position is not None and position.has_other_ids)):
        return
    works = "" if with_shards else "; with the shards, without --without-shards, their ids are compared with it"
    raise UserError(
        f"data.tokenizer ({run.data.tokenizer}) of {folder} need not be the one whose ids its model knows, and no export is "
        f"certified with it: {sign}{works}"
    )


def _open_shards(run: RunConfig, position: DataPosition | None) -> Sources:
    """Open the run's shards, and check that they are those it has read. Raises: UserError."""
    try:
        # Samples of an export are chunks: a plan would be made for nothing.
        chunked = replace(run, data=replace(run.data, packing="concatenate"))
        sources = labelled(open_sources(chunked), run.log)
    except UserError as error:
        raise UserError(
            f"{error}. For an export, give their new places as arguments data.train=... and data.tokenizer=..., or certify it on "
            "built-in text alone with --without-shards"
        ) from None
    found = {source.identity for source in sources.train}
    for read in position.sources if position is not None else ():
        if read.cursor and read.identity not in found:
            raise UserError(
                f"data.train names no shard with the tokens of {read.prefix}, which this checkpoint was trained on; give its new "
                "place with data.train=[{prefix: ...}], or use --without-shards"
            )
    return sources


def _check_tensors(folder: Path, model: ModelConfig) -> None:
    expected = our_shapes(model)
    found = {name: tensor.shape for name, tensor in read_index(folder).tensors.items()}
    if found != expected:
        name = next(name for name in {**expected, **found} if expected.get(name) != found.get(name))
        raise DamagedCheckpointError(
            f"{folder} holds {name} with shape {found.get(name)}, and its config implies {expected.get(name)}"
        )
