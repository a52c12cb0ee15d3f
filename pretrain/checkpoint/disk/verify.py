"""Verification: is this folder the checkpoint that was written? Reads bytes and JSON, unpickles nothing, follows no link inside
it.

Quick: every file is there with its size, nothing else is, the manifest is sealed, step and state agree, and every hash but those
of the tensors: what steers a run or a conversion is read as it was written. Deep: the hashes of the tensors as well, which may
be terabytes.
"""

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fanal.errors import FanalError, UserError, user_path
from fanal.hashing import algorithm_of
from fanal.run_folder import COMPLETE, MANIFEST, SHARDS, STATE, step_of
from fanal.signatures import SIGNATURE_END
from pretrain.checkpoint.disk.direct import read_past_cache
from pretrain.checkpoint.disk.manifest import (
    LOST,
    DamagedCheckpointError,
    FileEntry,
    Manifest,
    Take,
    describe,
    parse_manifest,
    read_blocks,
    read_sealed_manifest,
)
from pretrain.checkpoint.disk.state_file import read_state


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of a verification."""

    folder: Path
    manifest: Manifest | None
    """The manifest; None if it could not be read."""
    problems: tuple[str, ...]
    """Problems, each with its path; empty for an intact checkpoint."""


class GoneError(UserError):
    """A checkpoint was deleted while it was read: its run deletes old ones."""


@contextlib.contextmanager
def still_there(folder: Path) -> Iterator[None]:
    """Guard reading a checkpoint whose run may continue meanwhile: it is not damage if the whole folder is gone.

    Raises: GoneError in place of what was raised then.
    """
    try:
        yield
    except (FanalError, OSError):  # damage; or ESTALE, for a file that another host has deleted
        refuse_gone(folder)
        raise


def refuse_gone(folder: Path) -> None:
    """Check that a folder is still there. Raises: GoneError if it is not."""
    if not os.path.lexists(folder):
        raise GoneError(
            f"{folder} was deleted while it was read: its run deletes old checkpoints (checkpoint.keep_last); use a newer one"
        ) from None


def verify_checkpoint(folder: Path, *, deep: bool, num_threads: int = 1) -> Finding:
    """Compare a checkpoint with its manifest; deep reads the tensors as well, ``num_threads`` files at a time.

    Raises: OSError if a file that is there cannot be read for a reason that is not damage, such as its permissions; GoneError.
    """
    with still_there(folder):
        finding = _verify(folder, deep=deep, num_threads=num_threads)
    if finding.problems:
        refuse_gone(folder)
    return finding


def _verify(folder: Path, *, deep: bool, num_threads: int) -> Finding:
    try:
        manifest = parse_manifest(read_sealed_manifest(folder), folder)
    except DamagedCheckpointError as error:
        return Finding(folder=folder, manifest=None, problems=(str(error),))
    found = dict(_walk(folder))  # once: a shared file system answers for each file
    problems = list(_structure_problems(folder, manifest, found))
    entries = [entry for entry in _readable(manifest, found) if deep or not entry.path.startswith(f"{SHARDS}/")]
    with ThreadPoolExecutor(num_threads) as threads:
        hashed = threads.map(lambda entry: hash_problem(folder, entry), entries)
        problems += [problem for problem in hashed if problem is not None]
    return Finding(folder=folder, manifest=manifest, problems=tuple(problems))


def real_path(path: str | Path) -> Path:
    """Return where links lead; the path itself if they lead in a circle, for which ``Path.resolve`` raises an error of its own."""
    return Path(os.path.realpath(path))


def is_checkpoint(path: Path) -> bool:
    """Return whether this is a checkpoint's folder, intact or not, and not that of a run. Follows a link to its end."""
    folder = real_path(path)
    with user_path(path):
        return folder.is_dir() and (
            step_of(folder.name) is not None or any((folder / name).exists() for name in (MANIFEST, COMPLETE))
        )


def first_whole(checkpoints: Iterable[Path], *, deep: bool, num_threads: int = 1) -> tuple[Finding, list[str]]:
    """Return the first of these that passes the verification, and what is wrong with those before it. Those that are deleted
    meanwhile are skipped.

    Raises: DamagedCheckpointError naming every problem if none passes; OSError as ``verify_checkpoint``; GoneError if all are gone.
    """
    problems: list[str] = []
    gone: GoneError | None = None
    for checkpoint in checkpoints:
        try:
            finding = verify_checkpoint(checkpoint, deep=deep, num_threads=num_threads)
        except GoneError as error:
            gone = error
            continue
        if not finding.problems:
            return finding, problems
        problems += finding.problems
    if gone is not None and not problems:
        raise gone
    raise DamagedCheckpointError("; ".join(problems))


def _readable(manifest: Manifest, found: Mapping[str, os.stat_result]) -> list[FileEntry]:
    """Return the entries whose files are there with the right size, with no link on the way to them: those worth hashing."""
    sizes = {path: status.st_size for path, status in found.items() if stat.S_ISREG(status.st_mode)}
    return [entry for entry in manifest.files if sizes.get(entry.path) == entry.bytes]


def hash_problem(folder: Path, entry: FileEntry, take: Take | None = None) -> str | None:
    """Return what is wrong with a file's content; None if nothing is. Reads all of it once, and gives ``take`` every block with
    its place, so that what is used is what was hashed; then past the page cache, which nothing else needs.

    Raises: OSError as ``verify_checkpoint`` does.
    """
    try:
        found = describe(
            folder,
            entry.path,
            algorithm=algorithm_of(entry.hash),
            blocks=read_past_cache if take else read_blocks,
            take=take,
        )
    except OSError as error:
        if error.errno not in LOST:
            raise
        return f"{folder / entry.path} cannot be read ({error.strerror or error})"
    if found.bytes != entry.bytes:
        return f"{folder / entry.path} has {found.bytes:,} bytes, expected {entry.bytes:,}"
    if found.hash != entry.hash:
        return f"{folder / entry.path} has hash {found.hash}, expected {entry.hash}; its bytes changed"
    return None


def _structure_problems(folder: Path, manifest: Manifest, found: Mapping[str, os.stat_result]) -> Iterator[str]:
    named = step_of(folder.name)
    if named is not None and named != manifest.step:
        yield f"{folder / MANIFEST} is of step {manifest.step}, and the folder is named for step {named}"
    expected = {entry.path: entry.bytes for entry in manifest.files}
    for path, num_bytes in expected.items():
        status = found.get(path)
        if status is None:
            yield f"{folder / path} is missing"
        elif not stat.S_ISREG(status.st_mode):
            yield f"{folder / path} is {_kind(status)}, expected a file"
        elif status.st_size != num_bytes:
            yield f"{folder / path} has {status.st_size:,} bytes, expected {num_bytes:,}"
    folders = folders_of(expected)
    for path, status in found.items():
        is_expected = path in expected or path in (MANIFEST, COMPLETE, MANIFEST + SIGNATURE_END)
        if not is_expected and not (path in folders and stat.S_ISDIR(status.st_mode)):
            yield f"{folder / path} is {_kind(status)} that {MANIFEST} does not name"
    if STATE not in expected:
        yield f"{folder / STATE} is not named in {MANIFEST}"
    elif STATE in found and stat.S_ISREG(found[STATE].st_mode):
        try:
            read_state(folder, step=manifest.step)
        except DamagedCheckpointError as error:
            yield str(error)


def _walk(folder: Path, inside: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Yield everything below a folder, by its path from there; folders come before their content, links are not followed."""
    with os.scandir(folder / inside) as found:
        items = sorted(found, key=lambda item: item.name)
    for item in items:
        path = f"{inside}{item.name}"
        status = item.stat(follow_symlinks=False)
        yield path, status
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(folder, f"{path}/")


def folders_of(paths: Iterable[str]) -> set[str]:
    """Return the paths of all folders that files lie in, from a checkpoint's folder on, without that itself."""
    return {str(parent) for path in paths for parent in Path(path).parents if str(parent) != "."}


def _kind(status: os.stat_result) -> str:
    if stat.S_ISLNK(status.st_mode):
        return "a link"
    if stat.S_ISDIR(status.st_mode):
        return "a folder"
    return "a file" if stat.S_ISREG(status.st_mode) else "neither file nor folder"
