"""The device is found without torch, but only where torch could see no GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOUND = """
import sys
from pathlib import Path
from pretrain.parallel import device_type
device_type.DRIVER, device_type.IN = sys.argv[1], Path(sys.argv[2])
print(device_type.resolve_device("auto"), "torch" in sys.modules)
"""
NOT_THERE = "libcuda-that-nobody-has.so"


def found(folder: Path, *, driver: str = NOT_THERE, devices: Path = Path(NOT_THERE), version: str | None = None) -> str:
    """The device type, and whether torch was imported: a package that sees a GPU, as this version.py says."""
    package = folder / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("class cuda:\n    is_available = staticmethod(lambda: True)\n")
    if version is not None:
        (package / "version.py").write_text(version)
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    words = [sys.executable, "-c", FOUND, driver, str(devices)]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_a_build_for_the_cpu_alone_is_not_asked(tmp_path: Path) -> None:
    (tmp_path / "nvidia0").touch()
    version = "cuda = None\nhip = None\n"
    assert found(tmp_path, version=version, driver="libc.so.6", devices=tmp_path) == "cpu False"


def test_a_build_for_cuda_is_not_asked_where_there_is_neither_driver_nor_device(tmp_path: Path) -> None:
    assert found(tmp_path, version="cuda = '13.0'\nhip = None\n") == "cpu False"


@pytest.mark.parametrize("there", ["driver", "device"])
def test_a_build_for_cuda_is_asked_where_there_is_a_driver_or_a_device(there: str, tmp_path: Path) -> None:
    (tmp_path / "nvidia0").touch()
    driver, devices = ("libc.so.6", Path(NOT_THERE)) if there == "driver" else (NOT_THERE, tmp_path)
    version = "cuda = '13.0'\nhip = None\n"
    assert found(tmp_path, version=version, driver=driver, devices=devices) == "cuda True"


@pytest.mark.parametrize("version", ["cuda = None\nhip = '6.4'\n", "", None], ids=["ROCm", "empty", "none"])
def test_a_build_that_says_nothing_of_cuda_is_asked(version: str | None, tmp_path: Path) -> None:
    assert found(tmp_path, version=version) == "cuda True"


def test_the_installed_torch_says_what_it_was_built_for() -> None:
    """Without a word of it every start would import torch in two processes, one after the other."""
    program = (
        "from pretrain.parallel.device_type import _build_of_torch as built; found = built(); import torch; "
        "print((found['cuda'], found['hip']) == (torch.version.cuda, torch.version.hip))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
