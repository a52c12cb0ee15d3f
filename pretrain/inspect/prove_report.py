"""The report of a proof: a table for people, a line for each difference, and prove.json for an auditor."""

import hashlib
import json
import os
import platform
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.table import Table

from fanal.console import Console
from pretrain.config.load import to_yaml
from pretrain.config.schema import RunConfig
from pretrain.inspect.bounds import bounds_of
from pretrain.inspect.compare import PropertyComparison
from pretrain.inspect.evidence import Evidence
from pretrain.inspect.kill import Kill
from pretrain.inspect.layouts import Layout

RECORD = "prove.json"
FORMAT_VERSION = 1
COLUMNS = ("data order", "loss", "gradient norm", "validation loss", "optimizer")
PACKAGES = ("fanal", "torch", "megatron-core", "numpy")


@dataclass(frozen=True, kw_only=True)
class ProvedRun:
    """One run that was compared with the straight one."""

    run_dir: Path
    layout: Layout
    same: bool
    """True if it resumed in the straight run's layout."""
    kills: tuple[Kill, ...] = ()
    resumed_from: int | None = None
    """The checkpoint of another layout it went on from."""
    comparisons: list[PropertyComparison]

    @property
    def holds(self) -> bool:
        """Nothing differs; what is not applicable does not count."""
        return all(comparison.holds is not False for comparison in self.comparisons)


def print_report(proved: list[ProvedRun], record: Path, console: Console) -> bool:
    """The kills, the table, where the evidence is; each difference on standard error. Returns: whether all is equal."""
    print_kills(proved, console)
    table = Table("run", *COLUMNS, show_edge=False, header_style="bold")
    for run in proved:
        figures = {comparison.what: comparison.figure for comparison in run.comparisons}
        title = f"{run.layout.name}, killed {len(run.kills)} times" if run.same else f"resumed as {run.layout.name}"
        title += "" if run.resumed_from is None else f" from step {run.resumed_from}"
        title += f": {figures['end']}" if "end" in figures else ""
        table.add_row(title, *(figures.get(column, "") for column in COLUMNS))
    console.print(table)
    for run in proved:
        for comparison in run.comparisons:
            for problem in comparison.problems:
                print(f"error: {run.run_dir.name}: {comparison.what}: {problem}", file=sys.stderr)
    good = all(run.holds for run in proved)
    verdict = "equal: every run trained what the straight run trained" if good else "DIFFERENT: see the errors"
    console.print(f"{verdict}\nevidence: {record.parent} (record: {record.name})", soft_wrap=True)
    return good


def print_kills(proved: list[ProvedRun], console: Console) -> None:
    """Print when each kill came and which processes it hit, as it was, not as planned."""
    table = Table("kill", "whom", "during", "last step", "after", "exit code", show_edge=False, header_style="bold")
    for number, kill in enumerate((kill for run in proved for kill in run.kills), start=1):
        whom = f"rank {kill.plan.rank}" if kill.plan.target == "one rank" else kill.plan.target
        table.add_row(str(number), whom, kill.phase, str(kill.last_step), f"{kill.after_s:.2f} s", str(kill.exit_code))
    console.print(table)
    console.print()


def write_record(
    folder: Path, run: RunConfig, settings: dict[str, Any], base: Layout, straight: Evidence, proved: list[ProvedRun]
) -> Path:
    """prove.json: what was run, on what, and every figure."""
    manifest = straight.finding.manifest if straight.finding else None
    files = manifest.files if manifest else ()
    content = {
        "format_version": FORMAT_VERSION,
        "equal": all(proved_run.holds for proved_run in proved),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "config_sha256": hashlib.sha256(to_yaml(run).encode()).hexdigest(),
        **settings,
        "layout": asdict(base),
        "straight": {
            "run_dir": straight.run_dir.name,
            "consumed_samples": straight.position.consumed_samples if straight.position else None,
            "consumed_hash": straight.position.consumed_hash if straight.position else None,
            "files": [asdict(entry) for entry in files],
        },
        "bounds_of_other_layouts": asdict(bounds_of(run.train.precision)),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "machine": {"platform": platform.platform(), "cores": os.cpu_count()},
        "runs": [
            {
                "run_dir": proved_run.run_dir.name,
                "layout": asdict(proved_run.layout),
                "same_layout": proved_run.same,
                "equal": proved_run.holds,
                "resumed_from_step": proved_run.resumed_from,
                "kills": [asdict(kill) for kill in proved_run.kills],
                "comparisons": [_json(comparison) for comparison in proved_run.comparisons],
            }
            for proved_run in proved
        ],
    }
    record = folder / RECORD
    record.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    return record


def _json(comparison: PropertyComparison) -> dict[str, object]:
    """JSON has no infinity."""
    fields = asdict(comparison)
    if comparison.deviation == float("inf"):
        fields["deviation"] = "infinite"
    return fields


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
