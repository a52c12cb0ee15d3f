"""The report: one JSON file, rewritten whenever something was found, and the page that follows from it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.gpu.found import Finding

FORMAT = 1
PASSED, FAILED, TIMED_OUT, RUNNING = "passed", "failed", "timed out", "running"
BAD = (FAILED, TIMED_OUT)
NAMES = ("gpu-report.json", "gpu-report.md")


@dataclass(kw_only=True)
class Result:
    """What became of a stage."""

    name: str
    title: str
    status: str
    reason: str = ""
    """Why it was left out, or how it ended."""
    seconds: float = 0.0
    limit_s: float = 0.0
    findings: Sequence[Finding] = ()
    last_lines: Sequence[str] = ()
    """Of its output, where it did not pass."""


@dataclass(kw_only=True)
class Report:
    """All stages so far."""

    folder: Path
    started: str
    """Date and time, UTC."""
    commit: str
    device: str
    tiny: bool
    budget_s: float
    results: list[Result] = field(default_factory=list)

    def exit_code(self) -> int:
        """Return 1 if a stage failed or was cut off, else 0."""
        return int(any(result.status in BAD for result in self.results))

    def write(self) -> None:
        """Write both files, each at once: a reader, or a machine that is taken away, finds a whole one."""
        content = {"format": FORMAT, **{name: value for name, value in asdict(self).items() if name != "folder"}}
        for name, text in zip(NAMES, (json.dumps(content, indent=1) + "\n", page(self)), strict=True):
            part = self.folder / f"{name}.part"
            part.write_text(text)
            part.replace(self.folder / name)


def page(report: Report) -> str:
    """Return the report as Markdown."""
    return "\n".join(_page(report)) + "\n"


def _page(report: Report) -> Iterator[str]:
    yield "# What this machine's GPU showed" if report.device == "cuda" else "# A rehearsal of `make gpu` on a CPU"
    yield ""
    yield f"{report.started}; commit {report.commit}; `{report.device}`; budget {report.budget_s:.0f} s."
    if report.tiny or report.device != "cuda":
        yield ""
        yield "**No figure below is a GPU's**: sizes are a test's, and it ran on a CPU."
    yield ""
    yield "| stage | | s | limit, s | |"
    yield "|:--|:--|--:|--:|:--|"
    for result in report.results:
        cells = (
            result.name,
            result.status,
            f"{result.seconds:.0f}",
            f"{result.limit_s:.0f}",
            result.reason or result.title,
        )
        yield f"| {' | '.join(_cell(cell) for cell in cells)} |"
    for result in report.results:
        if result.findings or result.last_lines:
            yield from (
                "",
                f"## {result.name}: {result.title}",
                "",
                f"{result.status}. {result.reason}".rstrip(". ") + ".",
            )
            yield from _found(result.findings)
            if result.last_lines:
                yield from ("", "```", *result.last_lines, "```")


def _found(findings: Sequence[Finding]) -> Iterator[str]:
    """Notes and faults in their order, then the tables."""
    tables: dict[str, list[Mapping[str, Any]]] = {}
    for finding in findings:
        if finding["kind"] == "row":
            tables.setdefault(finding["table"], []).append(finding["cells"])
    spoken = [finding for finding in findings if finding["kind"] != "row"]
    if spoken:
        yield ""
    for finding in spoken:
        yield f"- {'**Fault**: ' if finding['kind'] == 'fault' else ''}{' '.join(finding['text'].split())}"
    for title, rows in tables.items():
        columns = list(rows[0])
        yield from ("", f"{title}:", "", f"| {' | '.join(columns)} |", f"|{':--|' * len(columns)}")
        for row in rows:
            yield f"| {' | '.join(_cell(row.get(column, '')) for column in columns)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
