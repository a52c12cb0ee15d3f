"""``certificate.json`` of an export names every file of it with its hash: a folder that has one is compared with it before use.

A folder of another program has none; whoever opens it says so, since nothing tells whether its bytes are those that were written.
"""

import dataclasses
import errno
import json
import os
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fanal.errors import DamageError, error_type
from fanal.host_cores import host_cores
from fanal.links import blocks_inside, read_inside
from fanal.reason import reason
from fanal.records import MisfitError, own_hash, record_of
from pretrain.checkpoint.disk.manifest import LOST
from pretrain.convert.ours.published import PublishedFile, describe_published

CERTIFICATE, CARD = "certificate.json", "README.md"
OWN_HASH = "certificate_sha256"
"""Key of the certificate's own hash; one of an earlier version has none."""
MAX_THREADS = 8
NO_FILE = LOST | {errno.EINVAL, errno.EISDIR, errno.ENXIO}
"""Errors of a file that is gone, or that is something else by now: the bytes that a certificate names are not there."""
REMEDY = f"copy the folder again, or export it again (who changed it on purpose removes {CERTIFICATE})"


class DamagedExportError(DamageError):
    """The bytes of an export are not those that its certificate names. Exit code 76."""


@dataclasses.dataclass(frozen=True)
class Certified:
    """A folder with a certificate."""

    folder: Path
    entries: Mapping[str, PublishedFile]
    """Size and hash of each file, by its name."""
    has_proved_tokenizer: bool
    """Whether its tokenizer was compared with the one that the model was trained with; that of an import has nothing to be
    compared with, and stays unproved however often it is exported."""

    def check(self, *, weights: bool = True) -> None:
        """Read every file, or all but the weights, and compare it with the certificate. A card that is not there is not missed.

        Raises: DamagedExportError naming the file.
        """
        names = [name for name in self.entries if weights or not name.endswith(".safetensors")]
        names = [name for name in names if name != CARD or os.path.lexists(self.folder / name)]
        with ThreadPoolExecutor(min(MAX_THREADS, host_cores())) as threads:
            self.compare(threads.map(lambda name: describe_linked(self.folder, name), names))

    def compare(self, found: Iterable[PublishedFile]) -> None:
        """Compare files as they were read. Those that the certificate does not name pass. Raises: as ``check``."""
        for entry in found:
            expected = self.entries.get(entry.path, entry)
            if entry != expected:
                raise DamagedExportError(
                    f"{self.folder / entry.path} has {entry.bytes:,} bytes with sha256 {entry.sha256}, expected "
                    f"{expected.bytes:,} with {expected.sha256} by {CERTIFICATE}: it changed after the export; {REMEDY}"
                )


def describe_linked(folder: Path, name: str) -> PublishedFile:
    """Return size and hash of a file, like ``describe_published``, following links: a download cache consists of links.

    Raises: DamagedExportError if it is not there, or no file; UserError for a link that leads out; OSError as ``describe``.
    """
    try:
        return describe_published(folder, name, blocks=lambda _: blocks_inside(folder, name))
    except OSError as error:
        if error.errno not in NO_FILE:
            raise
        problem = error.strerror or "not a file"
        raise DamagedExportError(f"{folder / name} cannot be read ({problem}); {REMEDY}") from None


def read_certified(folder: Path) -> Certified | None:
    """Read the certificate of a folder; None if it has none (then, once the folder is found good: ``say_unproved``).

    Raises: DamagedExportError if it is not what an export wrote; UserError if it is a link that leads out; PassingError.
    """
    path = folder / CERTIFICATE
    if not os.path.lexists(path):
        return None
    try:
        text = read_inside(folder, CERTIFICATE)
    except OSError as problem:
        raise error_type(problem, DamagedExportError)(f"{path} cannot be read ({problem.strerror}); {REMEDY}") from None
    try:
        content = json.loads(text)
        stated = content.get(OWN_HASH)
        if stated is not None and stated != (found := own_hash(content, OWN_HASH)):
            raise MisfitError(f"its content has sha256 {found}, expected {stated}")
        entries = [record_of(PublishedFile, entry) for entry in content["files"]]
        if wrong := [entry.path for entry in entries if Path(entry.path).name != entry.path]:
            raise MisfitError(f"{wrong[0]!r} is not the name of a file in the folder")
        is_proved = content["figures"]["tokenizer"]["oracle"] != "none"
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DamagedExportError(f"{path} is not the certificate of an export ({reason(error)}); {REMEDY}") from None
    return Certified(folder, {entry.path: entry for entry in entries}, is_proved)


def say_unproved(folder: Path, certified: Certified | None) -> None:
    """Say on standard error what nothing tells about a folder."""
    if certified is not None:
        if not certified.has_proved_tokenizer:
            print(
                f"note: nothing tells whether the tokenizer of {folder}, an import's, is the model's", file=sys.stderr
            )
        return
    print(
        f"note: {folder} has no {CERTIFICATE}, as an export of Fanal has: nothing tells whether its files are as they were "
        "written, or its tokenizer the model's",
        file=sys.stderr,
    )
