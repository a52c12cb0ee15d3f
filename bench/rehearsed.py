"""The peak of a step as `fanal rehearse` counts it, asked of the command as anyone would."""

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from pretrain.config.schema import RunConfig, SourceConfig
from pretrain.config.write_yaml import to_yaml_text

COMMAND = (sys.executable, "-W", "ignore", "-m", "fanal", "rehearse")


class RehearsalError(Exception):
    """The command ended with another code than 0; the message is what it said."""


def rehearsed_peak(run: RunConfig) -> int | None:
    """Return the bytes of the peak of a run's step; None where there is no such command. Raises: RehearsalError."""
    if subprocess.run([*COMMAND, "--help"], capture_output=True, check=False).returncode:
        return None
    if not run.data.train:  # a config must name a source; no rehearsal opens one
        run = replace(run, data=replace(run.data, train=[SourceConfig(prefix="none")]))
    with tempfile.TemporaryDirectory(prefix="fanal-rehearsed-") as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(to_yaml_text(run))
        done = subprocess.run([*COMMAND, str(config), "--json"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RehearsalError(
            f"`fanal rehearse` ended with code {done.returncode}: {done.stderr.strip() or done.stdout.strip()}"
        )
    return max(values_of("peak_bytes", json.loads(done.stdout)))


def values_of(key: str, tree: Any) -> list[int]:
    """Return every value of a key in a tree of JSON."""
    if isinstance(tree, list):
        return [value for one in tree for value in values_of(key, one)]
    if not isinstance(tree, dict):
        return []
    here = [tree[key]] if key in tree else []
    return here + [value for one in tree.values() for value in values_of(key, one)]
