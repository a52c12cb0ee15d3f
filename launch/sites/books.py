"""What a Slurm says of itself: partitions, nodes, settings and qualities of service, read from its own commands."""

import re
from dataclasses import dataclass, field
from typing import TypeVar

from launch import slurm

QOS_COLUMNS = ("Name", "MaxWall", "MaxTRES", "MinTRES", "Flags")
"""Columns asked of ``sacctmgr show qos``; MaxTRES and MinTRES are those of a job."""
NO_LIMIT = ("", "UNLIMITED", "INFINITE", "NONE", "N/A", "(null)")
T = TypeVar("T", int, float)


@dataclass(frozen=True, kw_only=True)
class Books:
    """The answers, by name; each a mapping of fields as Slurm names them."""

    partitions: dict[str, dict[str, str]]
    nodes: dict[str, dict[str, str]]
    settings: dict[str, str]
    qos: dict[str, dict[str, str]] = field(default_factory=dict)
    why_no_qos: str = ""
    """Why nothing is known of qualities of service, as where a cluster keeps no accounts; empty if they were read."""


def read_books() -> Books:
    """Ask the Slurm of this machine.

    Raises: SlurmError if there is none, or it does not answer. One without accounts has no qualities of service to tell of.
    """
    partitions = slurm.ask("scontrol", "show", "partition", "--oneliner")
    nodes = slurm.ask("scontrol", "show", "node", "--oneliner")
    settings = slurm.ask("scontrol", "show", "config")
    try:
        columns = f"format={','.join(QOS_COLUMNS)}"
        qos, why = slurm.ask("sacctmgr", "--noheader", "--parsable2", "show", "qos", columns), ""
    except slurm.SlurmError as error:
        qos, why = "", str(error)
    return Books(
        partitions=by_name(partitions, "PartitionName"),
        nodes=by_name(nodes, "NodeName"),
        settings=settings_of(settings),
        qos=qos_of(qos),
        why_no_qos=why,
    )


def by_name(lines: str, key: str) -> dict[str, dict[str, str]]:
    """Return the fields of each line that ``scontrol show --oneliner`` prints, by the one that names it."""
    found = [slurm.key_values(line) for line in lines.splitlines() if line.startswith(f"{key}=")]
    return {fields[key]: fields for fields in found}


def settings_of(text: str) -> dict[str, str]:
    """Return the settings that ``scontrol show config`` prints, one ``Name = value`` a line."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def qos_of(text: str) -> dict[str, dict[str, str]]:
    """Return what ``sacctmgr --parsable2`` prints, by the name of a quality of service."""
    rows = (line.split("|") for line in text.splitlines() if line.strip())
    return {row[0]: dict(zip(QOS_COLUMNS, row, strict=False)) for row in rows}


def hours_of(time: str) -> float | None:
    """Return the hours of a time as Slurm prints it, [DAYS-]HH:MM:SS; None for no limit."""
    if time in NO_LIMIT:
        return None
    days, dash, rest = time.rpartition("-")
    parts = [float(part) for part in rest.split(":")]
    hours, minutes, seconds = [0.0] * (3 - len(parts)) + parts
    return (float(days) if dash else 0) * 24 + hours + minutes / 60 + seconds / 3600


def tres_of(text: str) -> dict[str, int]:
    """Return trackable resources such as ``cpu=8000,gres/gpu=400``; those of a kind of GPU count to ``gres/gpu``. A memory has
    a unit, and is left out."""
    found: dict[str, int] = {}
    for name, equals, value in (part.partition("=") for part in text.split(",")):
        if equals and value.isdecimal():
            found[name] = int(value)
    kinds = [value for name, value in found.items() if name.startswith("gres/gpu:")]
    if kinds and "gres/gpu" not in found:
        found["gres/gpu"] = sum(kinds)
    return found


def gpus_of(node: dict[str, str]) -> int:
    """Return the GPUs of a node, of all kinds: ``gpu:4``, ``gpu:a100:4(S:0-1)``."""
    return sum(int(number) for number in re.findall(r"(?:^|,)gpu(?::[\w.-]+)?:(\d+)", node.get("Gres", "")))


def cores_of(node: dict[str, str], *, one_thread: bool) -> int:
    """Return the cores that jobs may have of a node: its processors but the system's, one a core if ``one_thread``."""
    usable = node.get("CPUEfctv") or node.get("CPUTot") or "0"
    threads = int(node.get("ThreadsPerCore") or 1) if one_thread else 1
    return int(usable) // threads


def least(*limits: T | None) -> T | None:
    """Return the smallest of some limits; None if none of them is one."""
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else None
