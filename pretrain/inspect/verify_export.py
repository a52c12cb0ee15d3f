"""``fanal verify EXPORT``: every file of an export against its certificate, as a table, and what the certificate says."""

import threading
from pathlib import Path

from rich.table import Table

from fanal.console import Console
from fanal.errors import UserError
from fanal.progress import Progress
from fanal.shown import on_one_line
from pretrain.convert.theirs.certified import CERTIFICATE, Certified, read_certified


def verify_export(folder: Path, console: Console) -> tuple[Certified, list[str]]:
    """Read every file of an export, and print what was found. Returns: its certificate, and the problems.

    Raises: DamagedExportError if its certificate is not one; UserError if it has none.
    """
    certified = read_certified(folder)
    if certified is None:
        raise UserError(
            f"{folder} must have a {CERTIFICATE}, as an export of Fanal has, and has none: nothing tells whether its files are as "
            "they were written; `fanal export` writes a folder that can be checked"
        )
    problems = export_problems(certified)
    table = Table("export", "files", "bytes", "finding", show_edge=False, header_style="bold")
    table.add_row(
        on_one_line(folder.resolve().name),
        f"{len(certified.entries):,}",
        f"{sum(entry.bytes for entry in certified.entries.values()):,}",
        "FAILED" if problems else "every byte as certified",
    )
    console.print(table)
    console.print(on_one_line(summary(certified)), soft_wrap=True)
    if not certified.has_own_hash:
        console.print(
            on_one_line(
                f"{CERTIFICATE} has no hash of its own, since an earlier version wrote it: a change of its figures is not found"
            ),
            soft_wrap=True,
        )
    return certified, problems


def export_problems(certified: Certified) -> list[str]:
    """Read every file of an export, with a display of the progress, and return what is wrong. Raises: as ``Certified.problems``."""
    done, lock = 0, threading.Lock()
    with Progress("verify", sum(entry.bytes for entry in certified.entries.values())) as progress:

        def count(num_bytes: int) -> None:
            nonlocal done
            with lock:
                done += num_bytes
                progress.update(done)

        return certified.problems(on_bytes=count)


def summary(certified: Certified) -> str:
    """Return what a certificate says in one line."""
    content, checkpoint = certified.content, certified.content["checkpoint"]
    return (
        f"certificate: {content['verdict']} as step {checkpoint['step']:,} of checkpoint {checkpoint['name']} (manifest "
        f"{checkpoint['manifest_sha256'][:12]}), certified on {content['date']}"
    )
