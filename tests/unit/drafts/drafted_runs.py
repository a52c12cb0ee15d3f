"""Run folders whose ledger is known in all its parts, without a training: files of starts, logs, energy counters, shards with columns."""

import json
from pathlib import Path
from typing import Any

from fanal.run_folder import METRICS_FILE
from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from pretrain.log.energy_file import EnergyFile, write_energy_file
from tests.runs.labelled_sources import put_columns, write_labelled_sources
from tests.unit.history.starts import begin

JOULES = 7.2e6
"""Of the second run: 2 kWh."""
HOSTS = [f"site-{number:02d}.example" for number in range(25)]
LOST, STEPS = 2, 10
DATES = ["2019-05-01", "2024", None, "2021-11-30T10:00:00Z", "someday"]


def labelled(data_folder: Path, folder: Path) -> list[str]:
    """Four sources and one to validate on; web has 25 hosts and dates."""
    prefixes = write_labelled_sources(data_folder, folder)
    languages = ["fr", "en", None]
    put_columns(folder / "web", {"host": [*HOSTS, None], "language": languages, "date": DATES})
    return prefixes


def run_of(small_run: Path, folder: Path, prefixes: list[str], *overrides: str) -> RunConfig:
    """A run over these sources."""
    train = ", ".join(f"{{prefix: {prefix}, weight: 1}}" for prefix in prefixes)
    return load_run(small_run, [f"run_dir={folder}", f"data.train=[{train}]", *overrides])


def write_log(folder: Path, number: int, *, after: int, to: int, elapsed_s: float = 3600.0) -> None:
    """Add the lines of a start that trained these steps in an hour, ten seconds of it without training."""
    stamp = {"start": number, "time_unix_s": 1.5e9 + elapsed_s, "elapsed_s": elapsed_s}
    lines: list[dict[str, Any]] = [
        {"kind": "step", "step": to, "step_time_s": (elapsed_s - 10) / (to - after), **stamp},
        {"kind": "end", "step": to, "outcome": "finished", "asked_by": "", **stamp},
    ]
    with (folder / METRICS_FILE).open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in lines)


def origin_at(checkpoint: Path, *, step: int, data: dict[str, Any] | None) -> dict[str, Any]:
    """The record of a checkpoint that a run started from."""
    return {
        "init_from": str(checkpoint), "init_optimizer": "keep", "checkpoint": str(checkpoint), "manifest_sha256": "a" * 64,
        "step": step, "consumed_samples": step * 8, "consumed_tokens": step * 8 * 64, "data": data, "origin": None,
        "average": None,
    }  # fmt: skip


def bare_run(small_run: Path, data_folder: Path, folder: Path) -> Path:
    """Ten steps on shards without columns or labels."""
    run = run_of(small_run, folder, [str(data_folder / "shards" / "train-code")])
    begin(run)
    write_log(folder, 1, after=0, to=STEPS)
    return folder


def run_without_a_step(small_run: Path, folder: Path, prefixes: list[str]) -> Path:
    """A run that has begun, and trained nothing yet."""
    begin(run_of(small_run, folder, prefixes[:1]))
    return folder


def chain_of_runs(small_run: Path, folder: Path, prefixes: list[str]) -> Path:
    """A second run that went on from step 8 of a first one, which had trained to step 10; it has energy counters."""
    first, second = folder / "first", folder / "second"
    begin(run_of(small_run, first, prefixes[:2]))
    write_log(first, 1, after=0, to=STEPS)
    checkpoint = first / "checkpoints" / f"step-{STEPS - LOST:08d}"
    origin = origin_at(checkpoint, step=STEPS - LOST, data={"seq_length": 64, "sources": []})
    held_out = f"data.validation=[{{prefix: {prefixes[4]}}}]"
    begin(run_of(small_run, second, prefixes[:3], held_out, "data.seed=7"), origin=origin, num_ranks=2)
    write_log(second, 1, after=0, to=STEPS)
    write_energy_file(second, EnergyFile(start=1, rank=0, host="n", measured_s=1.0, joules={"package-0": JOULES}))
    return second


def continued_import(small_run: Path, folder: Path, prefixes: list[str]) -> Path:
    """A run that started from an import."""
    begin(run_of(small_run, folder, prefixes[3:4]), origin=origin_at(folder / "imported" / "llama", step=0, data=None))
    write_log(folder, 1, after=0, to=STEPS)
    return folder
