"""An archive with every package for the nodes of a site, and the script that installs it there without a network.

install.sh          bash install.sh FOLDER [PYTHON]
target              processor and Python that it is for
requirements.txt    what is installed, with hashes: pip takes no other file
wheels/             the packages
own/                our own
SHA256SUMS          of the rest, read before anything is installed
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fanal.errors import FanalError, UserError
from fanal.exit_codes import CRASH
from fanal.files import replacing, sha256_of_file
from launch.offline.requirements import MINOR_VERSIONS, requirements_for
from launch.sites.schema import SiteConfig

LOCKS = ("requirements.txt", "torch-cuda.txt")
"""Locks of a machine with NVIDIA's GPUs, in the folder ``locks`` of a checkout."""
SOURCES = ("fanal", "pretrain", "tokenizer", "launch", "kernels", "pyproject.toml", "README.md", "LICENSE")
OLDEST_GLIBC, NEWEST_GLIBC = 5, 28
"""Minor versions of glibc 2 whose wheels are taken: RHEL 8, which the machines of 2026 run or follow, has 2.28."""
LAST_WORDS = 3


class PackingError(FanalError):
    """pip has no wheel for the machine, or found no network."""

    exit_code = CRASH


def pack_offline(
    site: SiteConfig, site_name: str, *, archive: Path, python_version: str, locks: Sequence[Path], code_dir: Path
) -> int:
    """Download wheels for a site's nodes and write them into an archive, whole or not at all. Returns the number of packages.

    Args: locks, files of requirements with hashes; none takes those of the checkout at code_dir, and our own package with them.
    Raises: UserError for a site or a lock that gives no environment; PackingError with pip's words.
    """
    if not site.architecture:
        raise UserError(
            f"architecture of {site_name}, which is empty, must say for which processor wheels are; architecture: x86_64 works"
        )
    if python_version not in MINOR_VERSIONS:
        raise UserError(f"--python-version ({python_version}) must be one of {', '.join(MINOR_VERSIONS)}; 3.11 works")
    chosen = list(locks) or own_locks(site, site_name, code_dir)
    wanted = [line for lock in chosen for line in requirements_for(lock, site.architecture, python_version)]
    if not wanted:
        raise UserError(
            f"--requirements ({', '.join(map(str, chosen))}) must name a package for {site.architecture} and Python "
            f"{python_version}, and names none; locks/requirements.txt works"
        )
    with tempfile.TemporaryDirectory(prefix="fanal-pack-") as made, replacing(archive) as stream:
        folder = Path(made)
        (folder / "requirements.txt").write_text("\n".join(wanted) + "\n")
        (folder / "target").write_text(f"ARCHITECTURE={site.architecture}\nPYTHON_VERSION={python_version}\n")
        shutil.copy(Path(__file__).with_name("install.sh"), folder)
        download(folder, site.architecture, python_version)
        if not locks:
            _own_wheel(code_dir, folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "install.sh")
        lines = [f"{sha256_of_file(path)}  {path.relative_to(folder)}\n" for path in files]
        (folder / "SHA256SUMS").write_text("".join(lines))
        with tarfile.open(fileobj=stream, mode="w") as tar:  # wheels are compressed
            tar.add(folder, archive.name.removesuffix(".tar"))
    return len(wanted) + (not locks)


def own_locks(site: SiteConfig, site_name: str, code_dir: Path) -> list[Path]:
    """Return the locks of this checkout.

    Raises: UserError if there are none, or they are not for the site's GPUs.
    """
    if not site.gpu_name.startswith(("NVIDIA", "Tesla")):
        raise UserError(
            f"--requirements must be given for {site_name}, since the locks here are for NVIDIA's GPUs; a file that "
            "`uv pip compile --generate-hashes` makes works, or an image (--container)"
        )
    found = [code_dir / "locks" / name for name in LOCKS]
    if absent := [str(path) for path in found if not path.is_file()]:
        raise UserError(f"--requirements must be given, since {absent[0]} is not there: only a checkout has locks")
    return found


def platforms(architecture: str) -> list[str]:
    """Return the tags of wheels that run on a processor with glibc 2.28 and later (PEP 600)."""
    old = ["manylinux2014", *(["manylinux2010", "manylinux1"] if architecture == "x86_64" else []), "linux"]
    tags = [f"manylinux_2_{minor}" for minor in range(NEWEST_GLIBC, OLDEST_GLIBC - 1, -1)]
    return [f"{tag}_{architecture}" for tag in (*tags, *old)]


def download(folder: Path, architecture: str, python_version: str) -> None:
    """Download the wheels that ``requirements.txt`` of a folder names into its ``wheels``. Raises: PackingError."""
    options = [
        "--only-binary=:all:",
        "--no-deps",
        "--require-hashes",
        "--implementation",
        "cp",
        "--python-version",
        python_version,
    ]
    for abi in (f"cp{python_version.replace('.', '')}", "abi3", "none"):
        options += ["--abi", abi]
    for platform in platforms(architecture):
        options += ["--platform", platform]
    places = ["--requirement", str(folder / "requirements.txt"), "--dest", str(folder / "wheels")]
    _pip("download", *options, *places)


def _own_wheel(code_dir: Path, folder: Path) -> None:
    """Build the wheel of our own code, in a copy: a build leaves files behind."""
    with tempfile.TemporaryDirectory(prefix="fanal-wheel-") as made:
        for name in SOURCES:
            if (code_dir / name).is_dir():
                shutil.copytree(
                    code_dir / name, Path(made) / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
                )
            elif (code_dir / name).exists():
                shutil.copy(code_dir / name, made)
        _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder / "own"), made)


def _pip(*words: str) -> None:
    """Run this Python's pip. Raises: PackingError with its last words."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", words[0], "--quiet", "--disable-pip-version-check", *words[1:]],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()][-LAST_WORDS:]
        raise PackingError(f"pip {words[0]} failed ({done.returncode}): {' '.join(' '.join(said).split())}")
