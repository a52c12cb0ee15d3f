"""The list of nodes to avoid: a text file that jobs add to and people edit, one node a line, with reason and expiry.

    NODE | UNTIL | REASON | BY | ADDED

All but the node may be left out. UNTIL is UTC, ``2026-12-02 09:00`` or ``2026-12-02``; without it the node is avoided until
somebody removes the line. Lines that begin with # are kept as they are. A line that cannot be read is kept, too, and not obeyed.
"""

import contextlib
import os
import re
import stat
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fanal.errors import PassingError, UserError, error_type
from fanal.files import replacing
from fanal.locks import take_lock
from fanal.new_files import open_to_lock
from fanal.ownership import open_as_folder
from fanal.settings_folder import settings_folder
from fanal.shown import shown
from launch import slurm

NODES_FILE = "FANAL_NODES_FILE"
"""Environment variable: path of the list, such as one that a group shares."""
DEFAULT_HOURS = 48.0
"""Hours for which a node is avoided where nobody says for how long: time for a site to drain it, or for a passing fault to pass."""
MAX_HOURS = 24.0 * 366
MAX_BYTES = 1_000_000
"""Largest list that is read; 10,000 nodes fit in it."""
LOCK_WAIT_S = 60.0
"""Seconds to wait for another job, or a person's command, to have written the list."""
NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_FORMS = ("%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%MZ", "%Y-%m-%d")
HEADER = """\
# Nodes that jobs of `fanal launch` avoid. Edit it as you like, or: fanal launch nodes --help
# NODE | UNTIL (UTC; empty: for good) | REASON | BY | ADDED (UTC)
"""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A node to avoid."""

    node: str
    until: datetime | None = None
    """Time from which it is used again; None for never."""
    reason: str = ""
    by: str = ""
    """Who added it: ``job 12-0``, or a user."""
    added: str = ""
    """Time of that, as it is written."""

    @classmethod
    def beginning_now(cls, node: str, *, hours: float, reason: str, by: str) -> "Entry":
        """Return an entry that begins now. The file has minutes; the last one counts."""
        now = utc_now()
        reason, by = _one_field(reason), _one_field(by)
        until = (now + timedelta(hours=hours, seconds=59, microseconds=999_999)).replace(second=0, microsecond=0)
        return cls(node=node, until=until, reason=reason, by=by, added=now.strftime(_FORMS[0]))

    def holds(self, now: datetime) -> bool:
        """Return whether the node is to be avoided at this time."""
        return self.until is None or now < self.until

    def line(self) -> str:
        """Return the entry as a line of the file."""
        until = "" if self.until is None else self.until.strftime(_FORMS[0])
        return " | ".join((self.node, until, _one_field(self.reason), _one_field(self.by), self.added)).rstrip(" |")


def list_path(stated: str = "") -> Path:
    """Return the path of the list. Args: stated: what job.json says; empty where a user did not say at submission.

    Raises: SlurmError if the name of the cluster, by which each cluster has a list of its own, is not to be had; UserError where no
        home folder is known that it could be in.
    """
    if stated or (stated := os.environ.get(NODES_FILE, "")):
        return Path(stated).absolute()
    cluster = os.environ.get("SLURM_CLUSTER_NAME") or _cluster_name()
    return settings_folder() / f"nodes-{re.sub(r'[^A-Za-z0-9_.-]', '-', cluster)}.txt"


def _cluster_name() -> str:
    for line in slurm.ask("scontrol", "show", "config").splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "ClusterName":
            return value.strip()
    raise slurm.SlurmError("`scontrol show config` names no ClusterName")


def utc_now() -> datetime:
    """Return the time now, in UTC."""
    return datetime.now(UTC)


def read_list(path: Path) -> tuple[list[Entry], list[str]]:
    """Return (entries, expired ones included; what is wrong with lines that are none, each in one line with what works).

    Raises: UserError or PassingError if the file is there and cannot be read.
    """
    entries, faults = [], []
    for number, written in enumerate(_lines(path), start=1):
        line = _readable(written)
        try:
            entry = _parsed(line)
        except ValueError as error:
            works = "n7 | 2026-12-31 12:00 | slow fan"
            faults.append(
                f"{path}, line {number} ({shown(line.strip(), 80)}) must be NODE | UNTIL | REASON: {error}; {works!r} works"
            )
        else:
            entries += [entry] if entry else []
    return entries, faults


def edit_list(path: Path, *, add: Sequence[Entry] = (), remove: Collection[str] = ()) -> list[Entry]:
    """Add and remove entries, and drop those that have expired. Returns the entries that were removed because of ``remove``.

    What a person wrote otherwise stays as it is, byte for byte. Of two entries of one node the one that holds longer stays, unless
    both are of a person: ``remove`` it first to shorten it. Safe under several writers at once.
    Raises: UserError or PassingError if the file cannot be read, locked or written, or would be more than is read.
    """
    with locked(path):
        now, kept, removed = utc_now(), [], []
        adding = {entry.node: entry for entry in add}
        for line in _lines(path):
            try:
                entry = _parsed(_readable(line))
            except ValueError:
                entry = None
            if entry is None:
                kept.append(line)
            elif entry.node in remove:
                removed.append(entry)
            elif entry.holds(now):
                new = adding.get(entry.node)
                if new is None or _holds_longer(entry, new):
                    adding.pop(entry.node, None)
                    kept.append(line)
        lines = [*(kept or HEADER.splitlines()), *(entry.line() for entry in adding.values())]
        text = "\n".join(lines) + "\n"
        if len(text.encode("utf-8", "surrogateescape")) > MAX_BYTES:
            raise UserError(
                f"{path} must be a list of nodes of at most {MAX_BYTES:,} bytes, and would be more with {len(adding):,} new lines; "
                f"fewer of them work, or a shorter reason, or {NODES_FILE}=PATH names another"
            )
        write_shared(path, text)
    return removed


def write_shared(path: Path, text: str) -> None:
    """Write a list, or a file beside it, as a whole: those may write to it who may write in its folder.

    Raises: UserError or PassingError if it cannot be written.
    """
    try:
        with replacing(path) as stream:
            open_as_folder(stream.fileno(), path.parent)
            stream.write(text.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise _unusable(path, error) from None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file that several processes write. It is another file beside it: the file itself is replaced.

    Raises: UserError or PassingError if it cannot be made, or is not to be had in LOCK_WAIT_S.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_to_lock(lock) as stream:
            open_as_folder(stream.fileno(), path.parent)
            give_up_at = time.monotonic() + LOCK_WAIT_S
            while not take_lock(stream.fileno()):
                if time.monotonic() > give_up_at:
                    raise PassingError(
                        f"{path}: another process has held {lock.name} for {LOCK_WAIT_S:g} s; try again later"
                    )
                time.sleep(0.05)
            yield
    except OSError as error:
        raise _unusable(path, error) from None


def _lines(path: Path) -> list[str]:
    """Return the lines of a list without their ends; bytes that are not UTF-8 as Python keeps those of a file's name."""
    lines = _bytes(path).decode("utf-8", "surrogateescape").split("\n")
    return lines if lines[-1] else lines[:-1]


def _readable(text: str) -> str:
    """Return text as it can be printed: with a mark in place of each byte that is not UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _bytes(path: Path) -> bytes:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
            # It would be replaced by a file, a device of the machine too.
            raise UserError(
                f"{path} must be a file, and is a device, a pipe or the like; {NODES_FILE}=PATH names another"
            )
        if found.st_size > MAX_BYTES:
            raise UserError(f"{path} must be a list of nodes of at most {MAX_BYTES:,} bytes; an empty file works")
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise _unusable(path, error) from None


def _unusable(path: Path, error: OSError) -> UserError | PassingError:
    return error_type(error)(  # type: ignore[return-value]
        f"{path} must be a list of nodes that you can read and write: {error.strerror or error}; {NODES_FILE}=PATH names another"
    )


def _parsed(line: str) -> Entry | None:
    """Return what a line says; None for an empty line or a remark. Raises: ValueError saying what is wrong."""
    if not line.strip() or line.lstrip().startswith("#"):
        return None
    node, until, reason, by, added, *more = (*(field.strip() for field in line.split("|")), "", "", "", "")
    if any(more[:-1]) or len(more) > 4:
        raise ValueError("there are more than five fields")
    if not NODE.fullmatch(node):
        raise ValueError(f"{shown(node, 40)} is not the name of one node")
    return Entry(node=node, until=_time(until) if until else None, reason=reason, by=by, added=added)


def _time(text: str) -> datetime:
    for form in _FORMS:
        with contextlib.suppress(ValueError):
            return datetime.strptime(text, form).replace(tzinfo=UTC)
    raise ValueError(f"{shown(text, 40)} is not a time such as 2026-12-31 12:00")


def _holds_longer(there: Entry, new: Entry) -> bool:
    return there.until is None or (new.until is not None and there.until >= new.until)


def _one_field(text: str) -> str:
    return " ".join(_readable(text).replace("|", "/").split())
