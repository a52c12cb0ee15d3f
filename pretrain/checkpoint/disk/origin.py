"""``origin.json``: which checkpoint of another run this one started from, and that one before it, back to the first run.

It is in every checkpoint of a run that started from another one, carried along across resumes: what a model was trained on can
be read from its last checkpoint alone, whatever became of the runs before. A run that started from initial weights has none.
"""

import dataclasses
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fanal.records import record_of
from fanal.run_folder import AVERAGE, COMPLETE, DATA, ORIGIN
from pretrain.checkpoint.disk.manifest import read_record, read_small_file
from pretrain.checkpoint.disk.state_file import read_state


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The checkpoint that a run started from."""

    init_from: str
    """The path as the configuration named it."""
    init_optimizer: str
    """Whether the optimizer's states were kept: ``keep`` or ``fresh``."""
    checkpoint: str
    """The folder of the checkpoint, as an absolute path."""
    manifest_sha256: str
    """Hash of its manifest, as in its COMPLETE, and so of every byte of it."""
    step: int
    """Optimizer steps of its run."""
    consumed_samples: int
    consumed_tokens: int
    """Tokens that its run had predicted, without those of the runs before."""
    data: dict[str, Any] | None
    """The content of its data.json: which shards, by hash, and how far into each; None if it has none, as after an import."""
    origin: "Origin | None"
    """The checkpoint that its run had started from; None for initial weights."""
    average: dict[str, Any] | None = None
    """The content of its average.json: what its weights are the mean of; None for those that were trained."""


def origin_of(folder: Path, *, step: int, init_from: str, init_optimizer: str) -> Origin:
    """Return the record of a checkpoint that a run starts from. Raises: DamagedCheckpointError."""
    state = read_state(folder, step=step)
    return Origin(
        init_from=init_from,
        init_optimizer=init_optimizer,
        checkpoint=str(folder.resolve()),
        manifest_sha256=sealed_hash(folder),
        step=state.step,
        consumed_samples=state.consumed_samples,
        consumed_tokens=state.consumed_tokens,
        data=json.loads(read_small_file(folder / DATA)) if os.path.lexists(folder / DATA) else None,
        origin=read_origin(folder),
        average=json.loads(read_small_file(folder / AVERAGE)) if os.path.lexists(folder / AVERAGE) else None,
    )


def sealed_hash(folder: Path) -> str:
    """Return the hash of the manifest that COMPLETE holds. Raises: DamagedCheckpointError if it cannot be read."""
    return read_small_file(folder / COMPLETE, 64).decode(errors="replace")


def origin_text(origin: Origin) -> str:
    """Return the content of ``origin.json``."""
    return json.dumps(dataclasses.asdict(origin), indent=1) + "\n"


def read_origin(folder: Path) -> Origin | None:
    """Read which checkpoint the run of this one started from; None for initial weights.

    Raises: DamagedCheckpointError naming the file if it is not such a record.
    """
    return read_record(folder / ORIGIN, lambda content: record_of(Origin, content), what="an origin")


def chain(origin: Origin | None) -> Iterator[Origin]:
    """Yield an origin and those before it, the first run last."""
    while origin is not None:
        yield origin
        origin = origin.origin


def described(origin: Origin) -> str:
    """Return a description of an origin in one line."""
    mean = "" if origin.average is None else f", the mean of {len(origin.average['sources'])} checkpoints up to it"
    return (
        f"{origin.checkpoint}, step {origin.step:,} after {origin.consumed_tokens:,} tokens{mean}, optimizer "
        f"{'kept' if origin.init_optimizer == 'keep' else 'fresh'}, manifest {origin.manifest_sha256[:12]}"
    )
