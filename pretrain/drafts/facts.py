"""What drafts are filled from: the ledger of a run as its JSON has it, and the certificate of an export.

A value is named by a path: "ledger data.tokens", "ledger runs[0].trained_to", "ledger runs[].starts[].hosts" (of each element),
"certificate files".
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fanal.errors import UserError
from fanal.links import read_inside
from fanal.shown import on_one_line
from pretrain.convert.theirs.certified import CERTIFICATE, read_certified
from pretrain.ledger.ledger import ledger_of

STEP = re.compile(r"([^.\[\]]+)|\[(\d*)\]")
"""A key, or the number of an element; [] stands for all of them."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything that a draft may say of a run."""

    ledger: Mapping[str, Any]
    """As docs/ledger.md describes it."""
    certificate: Mapping[str, Any] | None = None
    """Of an export whose files were compared with it; None where none is named."""
    deep: bool = False
    """Whether every byte of the shards was compared with their manifests, and a draft may take as long again."""

    @property
    def run_name(self) -> str:
        """Name of the run's folder, on one line: its path is nobody else's business."""
        return on_one_line(Path(self.ledger["run_dir"]).resolve().name) or "run"

    def follow(self, path: str) -> list[Any]:
        """Return the values of a path: one, or where it has [] one of each element.

        Raises: KeyError or IndexError if it leads nowhere.
        """
        document, inside = path.split(" ", 1)
        return list(_follow(getattr(self, document), inside))

    def at(self, path: str) -> Any:
        """Return the one value of a path; None where it is not known. Raises: as ``follow``."""
        (value,) = self.follow(path)
        return value


def facts_of(
    run_dir: str | Path,
    *,
    chain: bool = True,
    deep: bool = False,
    co2_g_per_kwh: float | None = None,
    export: Path | None = None,
) -> Facts:
    """Account for a run, and read the certificate of an export after every file of it was compared with it.

    Args: chain, deep, co2_g_per_kwh: as ``ledger_of``.
    Raises: as ``ledger_of``; UserError if the export has no certificate; DamagedExportError if it was altered.
    """
    ledger = ledger_of(run_dir, chain=chain, deep=deep, co2_g_per_kwh=co2_g_per_kwh).as_json()
    return Facts(ledger=ledger, certificate=None if export is None else _certificate_of(export), deep=deep)


def _certificate_of(export: Path) -> Mapping[str, Any]:
    certified = read_certified(export)
    if certified is None:
        raise UserError(
            f"--export ({export}) must be a folder that fanal export has written, and it has no {CERTIFICATE}; --export "
            "demo/export works after make demo"
        )
    certified.check()
    return json.loads(read_inside(export, CERTIFICATE))


def _follow(content: Any, inside: str) -> Iterator[Any]:
    found = STEP.match(inside)
    if found is None:
        yield content
        return
    key, number = found.groups()
    rest = inside[found.end() :].removeprefix(".")
    if key is not None:
        yield from _follow(content[key], rest)
    elif number:
        yield from _follow(content[int(number)], rest)
    else:
        for element in content:
            yield from _follow(element, rest)
