"""What a run is elsewhere: one identity for all of its starts, its configuration and environment without credentials, and the
packages that the place needs."""

import importlib.util
import os
import secrets
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fanal.credentials import HIDDEN, names_a_secret, without_credentials
from fanal.errors import UserError
from fanal.new_files import write_new
from fanal.node_name import node_name
from fanal.plain_files import read_plain
from pretrain.config.schema import LogConfig, RunConfig
from pretrain.log.record import StartRecord
from pretrain.log.stamp import Stamp

NEEDS = {"wandb": ("wandb",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}
"""Modules that each value of log.sinks needs; the extra that brings them has the same name."""
IDENTITY = "run-id"


def check_sinks(log: LogConfig) -> None:
    """Refuse a sink whose package is not installed, before anything is loaded. Imports none.

    Raises: UserError naming the command that installs it.
    """
    for name in log.sinks:
        missing = [module for module in NEEDS[name] if importlib.util.find_spec(module) is None]
        if missing:
            raise UserError(
                f"log.sinks ({', '.join(log.sinks)}) needs {', '.join(missing)}, which is not installed; "
                f"pip install 'fanal[{name}]' installs it, and log.sinks=[] trains without"
            )


def identity(folder: Path) -> tuple[str, bool]:
    """Return the content of RUN_DIR/NAME/run-id, and whether it was there; a new one is random, and not yet written."""
    try:
        return read_plain(folder / IDENTITY, max_bytes=200).decode().strip(), True
    except FileNotFoundError:
        return secrets.token_hex(8), False


def keep_identity(folder: Path, identity: str) -> None:
    """Write the identity where the next start finds it. Raises: OSError."""
    folder.mkdir(exist_ok=True)
    write_new(folder / IDENTITY, f"{identity}\n")


def flat_config(run: RunConfig) -> dict[str, Any]:
    """Return the resolved configuration by dotted keys, with what looks like credentials taken out."""
    return dict(_flat("", asdict(run)))


def environment(record: StartRecord, stamp: Stamp) -> dict[str, str]:
    """Return what a start ran on and with, in words."""
    job = os.environ.get("SLURM_JOB_ID")
    return {
        "start": str(stamp.start),
        "from_step": str(record.step),
        "headline": record.headline,
        "device": record.device,
        "num_ranks": str(record.num_ranks),
        "attention": record.attention,
        "optimizer": record.optimizer,
        "host": node_name(),
        **({"job": job} if job else {}),
        **{f"version.{name}": version for name, version in record.versions.items()},
    }


def _flat(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _flat(f"{key}.{name}" if key else str(name), inner)
    elif isinstance(value, list | tuple) and value:
        for number, inner in enumerate(value):
            yield from _flat(f"{key}.{number}", inner)
    elif isinstance(value, str):
        yield key, HIDDEN if names_a_secret(key.rsplit(".", 1)[-1]) else without_credentials(value)
    else:
        yield key, value
