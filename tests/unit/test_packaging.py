"""What is installed: our kernels as fanal.kernels, Hugging Face's package of that name unhidden, and the set that was tested."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from launch.chain.packed import pack_environment

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
INSTALLED = ("fanal", "tokenizer", "pretrain", "launch")
OUR_KERNELS = {f"fanal/{path.relative_to(ROOT)}" for path in (ROOT / "kernels").rglob("*.py")}
HUGGING_FACE_KERNELS = """
import importlib.metadata, kernels
from transformers.utils.import_utils import is_kernels_available
assert kernels.__version__ == importlib.metadata.version("kernels"), kernels
import fanal.kernels.attention
assert not hasattr(kernels, "attention")
assert is_kernels_available(MIN_VERSION="0.0.1", MAX_VERSION="999"), "transformers sees no package kernels"
print(fanal.kernels.attention.__file__)
"""
"""The bounds of transformers are left out: which versions it takes is its own affair; that it sees the package is ours."""


def copied_source(folder: Path) -> Path:
    """What the wheel is made of, as a clone has it: with the link."""
    for name in (*INSTALLED, "kernels"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    assert (folder / "fanal/kernels").is_symlink()
    return folder


def built(kind: str, source: Path, folder: Path) -> Path:
    """The wheel or sdist that pip would build, by the backend that is installed here."""
    program = f"import sys, setuptools.build_meta as backend; print(backend.build_{kind}(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", program, folder], cwd=source, capture_output=True, text=True, check=True
    )
    return folder / done.stdout.splitlines()[-1]


def modules_of(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("wheel", copied_source(tmp_path_factory.mktemp("source")), tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_our_kernels_as_files_of_fanal_and_no_package_kernels(wheel: Path) -> None:
    assert modules_of(wheel) >= OUR_KERNELS
    assert {name.split("/")[0] for name in modules_of(wheel)} == set(INSTALLED)
    assert not any(entry.external_attr >> 28 == 0o12 for entry in zipfile.ZipFile(wheel).infolist()), "a link"


def test_a_wheel_made_from_the_sdist_holds_the_same_modules(wheel: Path, tmp_path: Path) -> None:
    for name in ("source", "sdist", "unpacked", "wheel"):
        (tmp_path / name).mkdir()
    sdist = built("sdist", copied_source(tmp_path / "source"), tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # from Python 3.11.4 on
        archive.extractall(tmp_path / "unpacked")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert modules_of(built("wheel", unpacked, tmp_path / "wheel")) == modules_of(wheel)


@pytest.mark.parametrize("place", ["the root of the repository", "another folder"])
def test_hugging_face_s_kernels_is_found_beside_ours(place: str, tmp_path: Path) -> None:
    folder = ROOT if place == "the root of the repository" else tmp_path
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HUGGING_FACE_KERNELS]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == ROOT / "fanal/kernels/attention.py"


def test_hugging_face_s_kernels_is_found_beside_the_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-c", HUGGING_FACE_KERNELS]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == tmp_path / "site/fanal/kernels/attention.py"


@pytest.mark.parametrize("installed_as", ["a clone", "a wheel"])
def test_the_archive_for_node_local_disks_holds_our_kernels_as_files(
    installed_as: str, wheel: Path, tmp_path: Path
) -> None:
    code = tmp_path / "code"
    if installed_as == "a wheel":
        zipfile.ZipFile(wheel).extractall(code)
    else:
        code.mkdir()
        copied_source(code)
    python = tmp_path / "python"  # its own packages would be gigabytes
    venv.create(python, with_pip=False)
    pack_environment(python / "bin/python", code, tmp_path / "archive.tar")
    with tarfile.open(tmp_path / "archive.tar") as archive:
        entries = {entry.name: entry for entry in archive}
    assert all(entries[f"code/{name}"].isfile() for name in OUR_KERNELS)
    assert {Path(name).parts[1] for name in entries if name.startswith("code/")} == set(INSTALLED)


def test_the_tested_set_pins_every_direct_dependency_inside_its_range() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    tested = ("hf", "sign", "dev", "interop", "evaluate", "wandb", "mlflow")
    stated = [*PROJECT["project"]["dependencies"], *(line for name in tested for line in extras[name])]
    ranges = [Requirement(line) for line in stated]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    for required in ranges:
        if required.name != "fanal":
            assert required.specifier.contains(pins[canonicalize_name(required.name)]), required
    assert len(pins) == len({required.name for required in ranges} - {"fanal"})


def test_the_installed_torch_lies_in_the_range() -> None:
    (torch,) = (line for line in PROJECT["project"]["dependencies"] if line.startswith("torch"))
    assert Requirement(torch).specifier.contains(importlib.metadata.version("torch"))
