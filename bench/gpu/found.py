"""What a stage finds, written line by line as it is found: what is there when its time is over stays.

A finding is one JSON object in a line. ``note``: a sentence. ``row``: a row of a table, by columns. ``fault``: what makes the stage
fail, though it goes on. ``left out``: why it asked nothing after all.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.gpu.setting import here

LEFT_OUT = "left out"
Finding = dict[str, Any]


class Findings:
    """What this process finds, to its terminal and to the file that the setting names."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.faults = 0

    def note(self, text: str) -> None:
        self._add({"kind": "note", "text": text})

    def row(self, table: str, cells: Mapping[str, object]) -> None:
        """Args: cells, text by column; rows of one table have the columns of its first."""
        self._add({"kind": "row", "table": table, "cells": {name: str(cell) for name, cell in cells.items()}})

    def fault(self, text: str) -> None:
        self.faults += 1
        self._add({"kind": "fault", "text": text})

    def left_out(self, reason: str) -> None:
        """Say why this stage has nothing to say: without that it would count as passed."""
        self._add({"kind": LEFT_OUT, "text": reason})

    def exit_code(self) -> int:
        """Return 1 if there was a fault, else 0."""
        return int(self.faults > 0)

    def _add(self, finding: Finding) -> None:
        shown = finding.get("text") or ", ".join(f"{name} {cell}" for name, cell in finding["cells"].items())
        print(f"{'FAULT: ' if finding['kind'] == 'fault' else ''}{shown}", flush=True)
        if self._path is not None:
            with self._path.open("a") as stream:
                stream.write(json.dumps(finding) + "\n")


def findings_here() -> Findings:
    """Return what adds to this stage's findings."""
    return Findings(here().found)


def read_findings(path: Path) -> list[Finding]:
    """Return what was found so far; a last line that was cut off in the middle is left out."""
    if not path.is_file():
        return []
    whole = path.read_text(errors="replace").split("\n")[:-1]
    return [json.loads(line) for line in whole]
