"""``certificate.json`` of an export names every file of it with its hash: a folder that has one is compared with it before use.

A folder of another program has none; whoever opens it says so, since nothing tells whether its bytes are those that were written.
"""

import dataclasses
import errno
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from fanal.errors import DamageError, UserError, error_type
from fanal.host_cores import host_cores
from fanal.links import blocks_inside, read_inside
from fanal.reason import reason
from fanal.records import MisfitError, own_hash, record_of
from fanal.shown import shown, shown_json
from fanal.signatures import SIGNATURE_END
from pretrain.checkpoint.disk.manifest import LOST
from pretrain.convert.ours.published import PublishedFile, describe_published
from pretrain.convert.ours.tokenizer_files import json_bytes

CERTIFICATE, CARD = "certificate.json", "README.md"
OWN_HASH = "certificate_sha256"
"""Key of the certificate's own hash; one of an earlier version has none."""
FORMAT_VERSION = 2
"""Version that is written. In version 1 the own hash may be missing, and ``data`` is."""
KEYS_OF_1 = frozenset(
    {"format_version", "verdict", "date", "bound", "figures", "compared", "checkpoint", "files", "versions"}
)
KEYS = {1: KEYS_OF_1, FORMAT_VERSION: KEYS_OF_1 | {"data", OWN_HASH}}
"""Keys that a certificate of each version must have; one of version 1 may have its own hash as well."""
OF_THE_HUB = frozenset({".gitattributes", ".git", ".cache"})
"""Names that the hub's programs add to a folder, and no reader of a model opens."""
READ_ENDS = (".json", ".safetensors", ".model", ".jinja", ".txt", ".py")
"""Ends of the names of files that a reader of a Hugging Face folder opens if they are there."""
MAX_THREADS = 8
NO_FILE = LOST | {errno.EINVAL, errno.EISDIR, errno.ENXIO}
"""Errors of a file that is gone, or that is something else by now: the bytes that a certificate names are not there."""
ON_PURPOSE = f"who changed it on purpose removes {CERTIFICATE}"
REMEDY = f"copy the folder again, or export it again ({ON_PURPOSE})"


class DamagedExportError(DamageError):
    """The bytes of an export are not those that its certificate names. Exit code 76."""


@dataclasses.dataclass(frozen=True)
class Certified:
    """A folder with a certificate."""

    folder: Path
    entries: Mapping[str, PublishedFile]
    """Size and hash of each file, by its name."""
    content: Mapping[str, Any]
    """The certificate, parsed."""

    @property
    def has_proved_tokenizer(self) -> bool:
        """Whether its tokenizer was compared with the one that the model was trained with; that of an import has nothing to be
        compared with, and stays unproved however often it is exported."""
        return self.content["figures"]["tokenizer"]["oracle"] != "none"

    @property
    def has_own_hash(self) -> bool:
        """Whether a change of the certificate itself would be found."""
        return self.content.get(OWN_HASH) is not None

    def check(self, *, weights: bool = True) -> None:
        """Read every file, or all but the weights, and compare it with the certificate, before something is made of the folder.

        A card that is not there is not missed, and a file that no reader opens may be added.
        Raises: DamagedExportError naming the first file that is wrong.
        """
        for name in self.additional():
            if name.endswith(READ_ENDS):
                raise DamagedExportError(self._additional_problem(name))
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

    def problems(self, *, on_bytes: Callable[[int], None]) -> list[str]:
        """Read every file and return what is wrong with each that was altered, is missing, or was added; empty if nothing is.

        Args: on_bytes: called with the size of each block that was hashed, from several threads.
        Raises: PassingError or OSError, if a file cannot be read for a reason that says nothing about it.
        """
        with ThreadPoolExecutor(min(MAX_THREADS, host_cores())) as threads:
            found = list(threads.map(partial(self._problem, on_bytes=on_bytes), self.entries))
        return [problem for problem in found if problem is not None] + [
            self._additional_problem(name) for name in self.additional()
        ]

    def additional(self) -> list[str]:
        """Return the paths of what the certificate does not name: files, links, and folders without any. A signature of the
        certificate, and what the hub's programs leave, are not counted."""
        ours = {CERTIFICATE, CERTIFICATE + SIGNATURE_END, *self.entries}
        return [path for path in _below(self.folder) if path not in ours and path.split("/")[0] not in OF_THE_HUB]

    def _problem(self, name: str, on_bytes: Callable[[int], None]) -> str | None:
        try:
            self.compare([describe_linked(self.folder, name, on_bytes=on_bytes)])
        except (DamagedExportError, UserError) as error:  # changed or gone; a link that leads out of the folder
            return str(error)
        return None

    def _additional_problem(self, name: str) -> str:
        return (
            f"{self.folder / name} is not named by {CERTIFICATE}: it was added after the export; move it elsewhere "
            f"({ON_PURPOSE})"
        )


def _below(folder: Path, inside: str = "") -> Iterator[str]:
    """Yield the paths below a folder of all that is no folder, and of folders that are empty. No link is followed."""
    for item in sorted(os.scandir(folder / inside), key=lambda item: item.name):
        path = f"{inside}{item.name}"
        if not item.is_dir(follow_symlinks=False):
            yield path
            continue
        content = list(_below(folder, f"{path}/"))
        yield from content or [path]


def describe_linked(folder: Path, name: str, *, on_bytes: Callable[[int], None] = lambda _: None) -> PublishedFile:
    """Return size and hash of a file, like ``describe_published``, following links: a download cache consists of links.

    Args: on_bytes: called with the size of each block.
    Raises: DamagedExportError if it is not there, or no file; UserError for a link that leads out; OSError as ``describe``.
    """

    def blocks(_: Path) -> Iterator[bytes]:
        for block in blocks_inside(folder, name):
            yield block
            on_bytes(len(block))

    try:
        return describe_published(folder, name, blocks=blocks)
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
        return Certified(folder, *parse_certificate(text))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DamagedExportError(f"{path} is not the certificate of an export ({reason(error)}); {REMEDY}") from None


def parse_certificate(text: bytes) -> tuple[dict[str, PublishedFile], dict[str, Any]]:
    """Parse the bytes of a certificate. Returns: what it names, by name, and its content.

    Raises: MisfitError, or what reading such content raises, if an export did not write these very bytes. Of one without a hash
    of its own, of an earlier version, the form alone is checked.
    """
    content = json.loads(text)
    _check_content(content, text)
    entries = [record_of(PublishedFile, entry) for entry in content["files"]]
    if wrong := [entry.path for entry in entries if Path(entry.path).name != entry.path]:
        raise MisfitError(f"{wrong[0]!r} is not the name of a file in the folder")
    if not isinstance(content["figures"]["tokenizer"]["oracle"], str):
        raise MisfitError("it does not say what its tokenizer was compared with")
    for name, kind in (("name", str), ("step", int), ("manifest_sha256", str)):
        if type(content["checkpoint"][name]) is not kind:
            raise MisfitError(f"checkpoint.{name} holds {shown_json(content['checkpoint'][name], 60)}")
    return {entry.path: entry for entry in entries}, content


def _check_content(content: Any, text: bytes) -> None:
    """Check that a certificate is what an export wrote, to the byte where it has a hash of its own. Raises: MisfitError."""
    version = content.get("format_version")
    if version not in KEYS:
        raise MisfitError(
            f"its format_version is {shown(version)}, and this version of Fanal reads {', '.join(map(str, KEYS))}"
        )
    if set(content) - {OWN_HASH} != KEYS[version] - {OWN_HASH} or (version > 1 and OWN_HASH not in content):
        differing = sorted(set(content) ^ KEYS[version])
        raise MisfitError(f"it has other keys than one of version {version}: {shown(differing[0])}")
    stated = content.get(OWN_HASH)
    if OWN_HASH in content and stated != (found := own_hash(content, OWN_HASH)):
        raise MisfitError(f"its content has sha256 {found}, expected {shown(stated)}")
    if OWN_HASH in content and json_bytes(content) != text:  # the same content can be written in many ways
        raise MisfitError("its content is as it was written, and its bytes are not")


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
