"""The file of a start: gathered from all ranks, compared with the start before, and written by rank 0."""

import json
import logging
import os
import platform
import pwd
import time
from collections import Counter
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from fanal.checkout import checkout_commit, is_checkout_modified
from fanal.errors import FanalError
from fanal.host_name import host_name
from fanal.run_folder import checkpoints_dir, step_name
from pretrain.checkpoint.disk.config_file import read_config
from pretrain.checkpoint.disk.origin import Origin
from pretrain.config.config_changes import config_changes
from pretrain.config.schema import RunConfig
from pretrain.data.sources import Source, Sources
from pretrain.log.start_file import Code, StartFile, StartSource, read_start, start_numbers, write_start_file
from pretrain.parallel.device import device_name
from pretrain.parallel.environment import started_at
from pretrain.parallel.texts import gather_texts
from pretrain.parallel.world import World
from pretrain.state import TrainState
from tokenizer.shards.manifest import fanal_version

logger = logging.getLogger(__name__)

LIBRARIES = ("torch", "megatron-core")
MOST_SAID = 20
"""Changes that the log names; the file has all of them."""


def library_versions() -> dict[str, str]:
    """Return the versions of python and of what a run computes with."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def begin_start(
    run: RunConfig, world: World, sources: Sources, state: TrainState, origin: Origin | None, *, number: int
) -> StartFile | None:
    """Write the file of this start, from ``state`` on; return its content on rank 0, None on the others. Collective.

    A disk that does not take it is named, and keeps nothing from training. Args: number: of the start, on rank 0.
    """
    gathered = gather_texts(json.dumps([host_name(), device_name(world.device)]), world)
    if gathered is None:
        return None
    hosts, devices = zip(*map(json.loads, gathered), strict=True)
    before = _before(run, state)
    start = StartFile(
        number=number,
        time_unix_s=time.time(),
        startup_s=time.monotonic() - started_at(),
        step=state.step,
        consumed_samples=state.consumed_samples,
        decay_start_sample=state.decay_start_sample,
        config=asdict(run),
        code=Code(version=fanal_version(), commit=checkout_commit(), modified=is_checkout_modified()),
        versions=library_versions(),
        hosts=tuple(dict.fromkeys(hosts)),
        num_ranks=world.size,
        devices=dict(Counter(devices)),
        device_type=world.device.type,
        user=_user(),
        job=os.environ.get("SLURM_JOB_ID"),
        sources=training_sources(sources),
        validation_sources=_validation_sources(sources),
        origin=None if origin is None else asdict(origin),
        changes=() if before is None else config_changes(before, run),
    )
    try:
        write_start_file(run.run_dir, start)
    except (FanalError, OSError) as error:
        logger.warning("the file of start %d was not written, and training continues: %s", number, error)
    return start


def changes_line(start: StartFile) -> str | None:
    """Return the line that says what differs from the start before; None if nothing does."""
    if not start.changes:
        return None
    more = len(start.changes) - MOST_SAID
    named = [*start.changes[:MOST_SAID], *([f"and {more:,} more"] if more > 0 else [])]
    return f"changed since the start before: {'; '.join(named)}"


def _before(run: RunConfig, state: TrainState) -> dict[str, Any] | None:
    """Return the configuration of the start before: of its file, else of the checkpoint that this one goes on from; None of a run's
    first start, and where it cannot be read."""
    try:
        numbers = start_numbers(run.run_dir)
        if numbers:
            return read_start(run.run_dir, numbers[-1]).config
        return read_config(checkpoints_dir(run.run_dir) / step_name(state.step)) if state.step else None
    except (FanalError, OSError) as error:
        logger.warning("what changed since the start before is not known, and training continues: %s", error)
        return None


def _user() -> str:
    """The name of the user whose rights the process has; the number of one without a name, as in a container."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def training_sources(sources: Sources) -> tuple[StartSource, ...]:
    """Return what a start's file says of the shards that are trained on."""
    return tuple(_source(source, train_tokens=source.order.num_tokens) for source in sources.train)


def _validation_sources(sources: Sources) -> tuple[StartSource, ...]:
    """The shards that are read for validation alone: what is kept of training sources follows from their train_tokens."""
    trained = {source.identity for source in sources.train}
    return tuple(_source(source, train_tokens=0) for source in sources.validation if source.identity not in trained)


def _source(source: Source, *, train_tokens: int) -> StartSource:
    manifest = source.shard.manifest
    return StartSource(
        prefix=str(source.shard.prefix),
        identity=source.identity,
        num_tokens=source.shard.num_tokens,
        train_tokens=train_tokens,
        domain=source.domain,
        idx_sha256=manifest.idx_sha256,
        documents_sha256=manifest.documents_sha256,
    )
