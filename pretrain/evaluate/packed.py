"""Tasks without a network: what lm-eval fetches is put into a folder beforehand, with hashes, and read from there later.

``packed.json`` names every file with its size and hash. Machines that compute have no network at most sites.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from fanal.errors import DamageError, UserError, user_path
from fanal.evaluation_options import PACKED
from fanal.files import sha256_of_file, write_bytes_durably
from fanal.part_folder import part_folder, publish
from fanal.records import read_sealed, record_bytes, record_in, sealed
from pretrain.evaluate.harness import Asked, require_harness, run_harness, versions

OWN_HASH = "packed_sha256"
HUB, INCLUDED = "huggingface", "tasks"
"""Subfolders: the cache of Hugging Face's libraries, and a copy of ``--include-path``."""
OFFLINE = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE", "TRANSFORMERS_OFFLINE"), "1")


@dataclass(frozen=True, kw_only=True)
class PackedEntry:
    """A file of the folder."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class PackedFile:
    """Content of ``packed.json``."""

    format_version: int = 1
    tasks: tuple[str, ...]
    versions: dict[str, str]
    files: tuple[PackedEntry, ...]
    packed_sha256: str | None = None
    """SHA-256 of everything else in this file (``own_hash``)."""


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A folder that was packed, compared with its hashes."""

    sha256: str
    variables: dict[str, str]
    """Variables that let Hugging Face's libraries read there, and nowhere else."""
    include_path: Path | None


def pack(asked: Asked, to: str | Path) -> PackedFile:
    """Fetch all that tasks need into a new folder: lm-eval runs one sample of each, with a model that only answers.

    Raises: UserError if the folder is there, lm-eval is not, or a task cannot be had.
    """
    require_harness("--pack")
    final = Path(to)
    if final.exists():
        raise UserError(f"--to ({final}) must not exist; --to {final}-2 works, or remove what is there")
    with (
        user_path(final),
        part_folder(final, name=f"--to ({final})", act="pack", error=UserError, is_ours=lambda path: True) as part,
    ):
        if asked.include_path is not None:
            shutil.copytree(asked.include_path, part / INCLUDED, ignore=shutil.ignore_patterns("__pycache__"))
        fetching = replace(
            asked, limit=1, device="cpu", variables=_variables(part),
            include_path=None if asked.include_path is None else part / INCLUDED,
        )  # fmt: skip
        run_harness(fetching, model="dummy", model_args="", output=part / "results")
        shutil.rmtree(part / "results")
        for lock in part.rglob("*.lock"):
            lock.unlink()
        made = sealed(PackedFile(tasks=asked.tasks, versions=versions(), files=tuple(_entries(part))), OWN_HASH)
        write_bytes_durably(part / PACKED, record_bytes(made))
        publish(part, final)
    return made


def open_packed(folder: Path) -> Packed:
    """Open a folder that ``pack`` wrote, after every file was compared with its hash. Files that were added are not read for it.

    Raises: UserError if it is none; DamageError naming the first file that is not what was packed.
    """
    path = folder / PACKED
    remedy = "pack the tasks again, or copy the folder again"
    if not path.is_file():
        raise UserError(
            f"--packed ({folder}) must be a folder that `fanal evaluate --pack TASKS --to {folder}` wrote, and it has no {PACKED}"
        )
    content = read_sealed(
        path, OWN_HASH, altered=f"must have the content whose sha256 is its {OWN_HASH}", remedy=remedy
    )
    found = record_in(PackedFile, content, path, remedy="read it with the version that wrote it", error=UserError)
    for entry in found.files:
        file = folder / entry.path
        if not file.is_file() or file.stat().st_size != entry.bytes or sha256_of_file(file) != entry.sha256:
            raise DamageError(f"{file} is not what was packed; {remedy}")
    assert found.packed_sha256 is not None, "read_sealed has compared it"
    included = folder / INCLUDED
    return Packed(
        sha256=found.packed_sha256,
        variables={**_variables(folder), **OFFLINE},
        include_path=included if included.is_dir() else None,
    )


def _variables(folder: Path) -> dict[str, str]:
    hub = (folder / HUB).absolute()
    return {"HF_HOME": str(hub), "HF_DATASETS_CACHE": str(hub / "datasets"), "HF_HUB_CACHE": str(hub / "hub")}


def _entries(folder: Path) -> list[PackedEntry]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        PackedEntry(path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=sha256_of_file(path))
        for path in paths
    ]
