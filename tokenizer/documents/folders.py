"""Files of documents below a folder, and everything else that is there, so that neither is lost nor gained unseen.

Left out are hidden files and folders (what begins with a dot: `._x` of macOS, `.snapshot`, `.git`), the folders of systems,
files of other names, and descriptions that tools put beside the documents. A file whose documents would be lost for its
compression alone is refused. A link to a file is followed; one to a folder outside is refused, since it may bring anything.
"""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fanal.errors import UserError, error_type
from fanal.files import reading
from tokenizer.documents.file_names import LINE_SUFFIXES, TEXT_SUFFIX, known_layout
from tokenizer.documents.unreadable import UNKNOWN_COMPRESSIONS, how_to_read

SYSTEM_FOLDERS = frozenset({"__MACOSX", "_temporary", "lost+found", "$RECYCLE.BIN", "System Volume Information"})
"""Folders of systems and of unfinished writers, beside the hidden ones."""
BACKUPS = ("~", "#", ".bak", ".orig", ".old", ".save", ".swp", ".swo")
UNFINISHED = (".part", ".partial", ".tmp", ".crdownload", ".incomplete", ".filepart", ".aria2")
DESCRIPTIONS = frozenset(
    {
        "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "croissant.json", "tokenizer.json",
        "tokenizer_config.json", "tokenizer-info.json", "special_tokens_map.json", "config.json", "generation_config.json",
    }
)  # fmt: skip
"""Files that datasets and tokenizers have beside the text: JSON, and not documents."""
SHARD_COLUMNS = ".documents.parquet"
"""End of the name of a shard's columns, which are rows without a text."""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A file or folder inside a folder of inputs that is not read."""

    path: str
    """Path, as it begins with the folder that the user gave."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A file with the name of one that holds documents."""

    path: Path
    identity: str
    """What tells the file from all others: the same for all names of one file."""
    named: bool
    """Whether the user named the file itself, or a folder above it that holds no other name of it."""


@dataclass
class Folder:
    """What was found below one folder of inputs, in the order of the paths."""

    candidates: list[Candidate] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    outside: list[Path] = field(default_factory=list)
    """Links to files outside the folder, among the candidates."""


def files_of_folder(folder: Path, given: Sequence[Path]) -> Folder:
    """Return what lies in a folder and in all folders below it.

    Args: given, all inputs: a link to a folder among them is left out here, since it is read there.
    Raises: UserError for a folder that may not be read, a link to a folder outside, a link that leads nowhere, or a file that
    would be left out for its compression alone.
    """
    walk = _Walk(folder, given)
    walk.enter(folder, through_link=False)
    while walk.linked_folders:  # after all that is reached without a link, which is its better name
        link = walk.linked_folders.pop(0)
        real = os.path.realpath(link)
        if real in walk.seen:
            walk.leave_out(link, f"the same folder as {walk.seen[real]}")
        else:
            walk.enter(link, through_link=True)
    found = walk.found
    found.candidates.sort(key=lambda one: one.path.parts)  # the order of paths, ten times as fast
    found.left_out.sort(key=lambda one: one.path)
    return found


class _Walk:
    """Walk through one folder."""

    def __init__(self, folder: Path, given: Sequence[Path]) -> None:
        self.folder = folder
        self.real = os.path.realpath(folder)
        self.given = {os.path.realpath(path): path for path in given}
        self.found = Folder()
        self.seen: dict[str, Path] = {}
        """Folders that were entered, by their real paths."""
        self.linked_folders: list[Path] = []

    def leave_out(self, path: Path, reason: str) -> None:
        # A manifest can name it, whatever its bytes are.
        name, reason = (text.encode("utf-8", "backslashreplace").decode("utf-8") for text in (str(path), reason))
        self.found.left_out.append(LeftOut(path=name, reason=reason))

    def enter(self, top: Path, *, through_link: bool) -> None:
        """Take in a folder and the folders below it."""
        for name, folders, files in os.walk(top, onerror=_refuse):
            here, real = Path(name), os.path.realpath(name)
            self.seen[real] = here
            folders[:] = [inner for inner in sorted(folders) if self._is_entered(here / inner)]
            beside = frozenset(files)
            for file in files:
                self._take(here / file, f"{real}/{file}", beside, through_link=through_link)

    def _is_entered(self, path: Path) -> bool:
        if path.name.startswith("."):
            self.leave_out(path, "hidden")
        elif path.name in SYSTEM_FOLDERS:
            self.leave_out(path, "a folder of the system")
        elif path.is_symlink():
            self._follow(path)
        else:
            return os.path.realpath(path) not in self.seen
        return False

    def _follow(self, link: Path) -> None:
        target = os.path.realpath(link)
        elsewhere = [path for real, path in self.given.items() if real != self.real and is_inside(target, real)]
        if is_inside(target, self.real):
            self.linked_folders.append(link)
        elif elsewhere:
            self.leave_out(link, f"a link to {target}, which the input {elsewhere[0]} holds")
        else:
            raise UserError(
                f"{link} is a link to a folder outside the input folder {self.folder}, and what lies there is read only if it is "
                f"named: remove the link, or name {target} as an --input too"
            )

    def _take(self, path: Path, real: str, beside: frozenset[str], *, through_link: bool) -> None:
        reason, link, identity = _why_not(path, beside), False, ""
        if reason is None:
            with reading(path):
                status = _status(path)  # once, and no second question about a file that is no link
                link = status is not None and stat.S_ISLNK(status.st_mode)
                if link:
                    real, status = os.path.realpath(real), path.stat() if path.exists() else None
            if link and status is None:
                raise UserError(
                    f"{path} is a link to {path.readlink()}, which leads to no file; bring that file back, or remove the link"
                )
            if status is None or not stat.S_ISREG(status.st_mode):
                reason = "not a file"
            else:
                identity = _identity(real, status)
        if reason is not None:
            self.leave_out(path, reason)
            return
        self.found.candidates.append(
            Candidate(path=path, identity=identity, named=not link and not through_link and identity == real)
        )
        if link and not is_inside(real, self.real):
            self.found.outside.append(path)


def is_inside(real: str, folder: str) -> bool:
    """Whether a real path is a folder's, or that of something in it."""
    return f"{real}/".startswith(f"{folder.rstrip('/')}/")


def identity_of(real: str) -> str:
    """Return what tells a file from all others: its real path, or its number if it has several names of its own."""
    with reading(Path(real)):
        return _identity(real, Path(real).stat())


def _identity(real: str, status: os.stat_result) -> str:
    return real if status.st_nlink == 1 else f"{status.st_dev}:{status.st_ino}"


def _status(path: Path) -> os.stat_result | None:
    """The state of what a path names, a link's own; None where there is nothing."""
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def _why_not(path: Path, beside: frozenset[str]) -> str | None:
    """Return why a file of a folder is not one of documents; None if it is one."""
    name = path.name
    if name.startswith("."):
        return "hidden"
    if name.endswith(BACKUPS):
        return "a backup of an editor"
    if name.lower().endswith(UNFINISHED):
        return "unfinished, by its name"
    if name in DESCRIPTIONS:
        return "a description, not documents"
    if path.suffix == ".json" and f"{path.stem}.idx" in beside:
        return "the manifest of a token shard"
    if name.endswith(SHARD_COLUMNS) and f"{name.removesuffix(SHARD_COLUMNS)}.idx" in beside:
        return "the columns of a token shard"
    if "encode.sbatch" in beside:
        return "of a launch folder"
    if known_layout(path, "file") is not None:
        return None
    inner = Path(path.stem)
    if path.suffix.lower() in UNKNOWN_COMPRESSIONS and inner.suffix.lower() in (*LINE_SUFFIXES, TEXT_SUFFIX):
        raise UserError(f"{path} {how_to_read(path)}")
    return f"the suffix {path.suffix} is not one of documents" if path.suffix else "a name without a suffix"


def _refuse(problem: OSError) -> None:
    raise error_type(problem)(
        f"input folder {problem.filename} cannot be read ({problem.strerror}); change its permissions"
    )
