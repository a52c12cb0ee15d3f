"""Code, packages and Python's own library in one file, for each node to unpack on its own disk.

A rank that starts opens 3,800 files and asks for the state of 12,500 (`make bench-start`), all of it work for the metadata
servers of a shared file system: 9 million requests for 512 ranks. One archive a node is read in one piece: 1.7 GB with the CPU
build of torch, unpacked into memory in 2 s. It holds bytecode, so that no rank compiles what all ranks import.

    code/                       our packages
    python/bin/python           a link to the interpreter, which stays where it is
    python/lib/pythonX.Y/       Python's library, and its site-packages; all that PYTHONHOME and PYTHONUSERBASE name
    python/include/pythonX.Y/   headers, for what Triton compiles
"""

import io
import json
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fanal.errors import UserError
from fanal.files import replacing

PACKAGES = ("fanal", "pretrain", "tokenizer", "launch")
LEFT_OUT = {"__pycache__", ".git"}
LEFT_OUT_OF_LIBRARY = {"site-packages", "dist-packages", "test", "idlelib", "tkinter", "turtledemo", "ensurepip"}
BYTECODE_HEADER_BYTES = 16
ASK = """
import importlib.util, json, os, site, sys, sysconfig
relative = lambda path: os.path.relpath(path, sys.base_prefix)
library, headers = sysconfig.get_path("stdlib"), sysconfig.get_path("include")
print(json.dumps({
    "interpreter": sys._base_executable,
    "library": library, "library_place": relative(library), "headers": headers, "headers_place": relative(headers),
    # By their real paths: in a virtual environment of some systems lib64 is a link to lib, and both are on the path.
    "packages": list(dict.fromkeys(
        os.path.realpath(path) for path in sys.path if path.endswith(("site-packages", "dist-packages")) and os.path.isdir(path)
    )),
    "packages_place": os.path.relpath(site.getusersitepackages(), site.getuserbase()),
    "tag": sys.implementation.cache_tag, "magic": importlib.util.MAGIC_NUMBER.hex(),
}))
"""


@dataclass(frozen=True, kw_only=True)
class Python:
    """An installed Python: where its parts lie, and where they belong below another prefix."""

    interpreter: str
    """Program that a virtual environment is made of."""
    library: str
    library_place: str
    headers: str
    headers_place: str
    packages: list[str]
    """Folders of installed packages on its path, first to last."""
    packages_place: str
    tag: str
    """Part of the names of its bytecode files."""
    magic: str
    """First bytes of its bytecode files, in hexadecimal digits."""


def pack_environment(python: Path, code_dir: Path, archive: Path) -> None:
    """Write our packages and all that ``python`` imports from elsewhere into ``archive``, with bytecode.

    It must be made again when code or packages change; ``fanal launch render`` does. Bytecode that is missing beside its source
    is made here, on all cores: a minute or two the first time.
    Raises: UserError if ``python`` does not run, or has no packages.
    """
    of = python_at(python)
    with (
        replacing(archive) as stream,
        tarfile.open(fileobj=stream, mode="w") as tar,
        tempfile.TemporaryDirectory() as made,
    ):
        sources: dict[str, Path] = {}  # by their names in the archive: of two, the first on the path wins

        def add(folder: Path, place: str, left_out: set[str]) -> None:
            tar.add(folder, place, filter=_noting(folder, place, left_out, sources))

        tar.dereference = True  # fanal/kernels is a link in a clone, and a folder where the wheel was installed
        for package in PACKAGES:
            add(code_dir / package, f"code/{package}", LEFT_OUT)
        tar.dereference = False
        add(Path(of.library), f"python/{of.library_place}", LEFT_OUT | LEFT_OUT_OF_LIBRARY)
        if Path(of.headers).is_dir():
            tar.add(of.headers, f"python/{of.headers_place}")
        for folder in reversed(of.packages):  # the first folder on the path is unpacked last, and wins
            add(Path(folder), f"python/{of.packages_place}", LEFT_OUT)
        for place, bytecode in _bytecode(python, of, sources, Path(made)):
            tar.add(bytecode, place)
        link = tarfile.TarInfo("python/bin/python")
        link.type, link.linkname = tarfile.SYMTYPE, of.interpreter
        tar.addfile(link, io.BytesIO())


def python_at(python: Path) -> Python:
    """Ask an interpreter where its parts are.

    Raises: UserError if it does not run, or has no packages.
    """
    done = subprocess.run([str(python), "-c", ASK], capture_output=True, text=True)
    try:
        found = Python(**json.loads(done.stdout.splitlines()[-1]))
    except (ValueError, TypeError, IndexError):
        found = None
    if done.returncode or found is None or not found.packages:
        raise UserError(f"Python ({python}) must run and have site-packages: {done.stderr.strip() or 'it has none'}")
    return found


def _noting(
    folder: Path, place: str, left_out: set[str], sources: dict[str, Path]
) -> Callable[[tarfile.TarInfo], tarfile.TarInfo | None]:
    """Return a filter for ``tarfile`` that notes each Python source it lets through."""

    def wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        inside = Path(entry.name).relative_to(place)
        if left_out & set(inside.parts) or (inside.parts[:1] and inside.parts[0].startswith("config-")):
            return None
        if inside.suffix == ".py" and not entry.isdir():
            sources[entry.name] = folder / inside
        return entry

    return wanted


def _bytecode(python: Path, of: Python, sources: dict[str, Path], made: Path) -> Iterator[tuple[str, Path]]:
    """Yield (name in the archive, file) of the bytecode of every source: what lies beside it, or is made in an empty folder."""
    missing = []
    for place, source in sources.items():
        name = Path("__pycache__") / f"{source.stem}.{of.tag}.pyc"
        if _is_current(source.parent / name, source, of.magic):
            yield str(Path(place).parent / name), source.parent / name
        else:
            missing.append((place, source, name))
    subprocess.run(
        [str(python), "-m", "compileall", "-qq", "-j", "0", "-i", "-"],
        input="".join(f"{source.absolute()}\n" for _, source, _ in missing),
        env={**os.environ, "PYTHONPYCACHEPREFIX": str(made)}, text=True, capture_output=True,
    )  # fmt: skip
    for place, source, name in missing:
        bytecode = made / str(source.absolute().parent).lstrip("/") / name.name
        if bytecode.is_file():  # some packages hold sources for another Python, which this one cannot compile
            yield str(Path(place).parent / name), bytecode


def _is_current(bytecode: Path, source: Path, magic: str) -> bool:
    """Whether a Python with this magic number would take the bytecode for the source's."""
    try:
        with bytecode.open("rb") as stream:
            header = stream.read(BYTECODE_HEADER_BYTES)
        status = source.stat()
    except OSError:
        return False
    flags, modified, size = (int.from_bytes(header[begin : begin + 4], "little") for begin in (4, 8, 12))
    written = (int(status.st_mtime) & 0xFFFFFFFF, status.st_size & 0xFFFFFFFF)
    return header[:4].hex() == magic and (flags != 0 or (modified, size) == written)
