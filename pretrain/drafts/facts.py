"""What drafts are filled from: the ledger of a run as its JSON has it, and the certificate of an export.

A value is named by a path: "ledger data.tokens", "ledger runs[0].trained_to", "ledger runs[].starts[].hosts" (of each element),
"certificate files".
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fanal.errors import UserError
from fanal.links import read_inside
from fanal.shown import on_one_line
from pretrain.convert.theirs.certified import CERTIFICATE, read_certified
from pretrain.history.moved import Moved
from pretrain.ledger.ledger import ledger_of, ledger_text

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

    @property
    def last_run(self) -> str:
        """Path of the run that was asked for, the last of its chain."""
        return f"ledger runs[{len(self.ledger['runs']) - 1}]"


def facts_of(
    run_dir: str | Path,
    *,
    chain: bool = True,
    deep: bool = False,
    co2_g_per_kwh: float | None = None,
    export: Path | None = None,
    moved: Sequence[Moved] = (),
) -> Facts:
    """Account for a run, and read the certificate of an export after every file of it was compared with it.

    Args: chain, deep, co2_g_per_kwh, moved: as ``ledger_of``.
    Raises: as ``ledger_of``; UserError if the export has no certificate; DamagedExportError if it was altered.
    """
    certificate = None if export is None else _certificate_of(export)
    # As it is printed: what JSON makes of it is what a path finds.
    ledger = json.loads(
        ledger_text(ledger_of(run_dir, chain=chain, deep=deep, co2_g_per_kwh=co2_g_per_kwh, moved=moved))
    )
    if export is not None and certificate is not None and not _is_of_run(certificate, ledger):
        checkpoint = certificate["checkpoint"]
        raise UserError(
            f"--export ({export}) must be an export of a checkpoint of {run_dir}, and it is of {checkpoint['name']} with manifest "
            f"{checkpoint['manifest_sha256'][:12]} of another run; fanal export {run_dir} --to {export}-2 makes one that is"
        )
    return Facts(ledger=ledger, certificate=certificate, deep=deep)


def _is_of_run(certificate: Mapping[str, Any], ledger: Mapping[str, Any]) -> bool:
    """Whether an export is of the run's newest checkpoint, or of an earlier one: then the run read all that its weights have."""
    run, checkpoint = ledger["runs"][-1], certificate["checkpoint"]
    if run["checkpoint"] is not None and run["checkpoint"]["manifest_sha256"] == checkpoint["manifest_sha256"]:
        return True
    identities = {source["identity"] for source in ledger["data"]["sources"]}
    parts: list[Mapping[str, Any]] = certificate.get("data", [])  # an export of an earlier version does not say it
    if not parts or parts[0]["consumed_samples"] > run["samples"]:
        return False
    return all(shard["identity"] in identities for shard in parts[0]["shards"] if shard["cursor"])


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
