"""The locks hold the set that was tested, and the pages that follow from them are true."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = [ROOT / "locks" / f"{name}.txt" for name in ("requirements", "torch-cpu", "torch-cuda", "kernels", "flash4")]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def entries(lock: Path) -> list[str]:
    """The requirements of a lock, each with its hashes."""
    return re.split(r"(?m)^(?=\S+==)", lock.read_text())[1:]


def versions(path: Path) -> dict[str, set[str]]:
    """The versions that a lock or constraints.txt has of each package; several where they depend on the Python."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"(?m)^([\w.-]+)==([^\s+;]+)", path.read_text()):
        found.setdefault(normal(name), set()).add(version)
    return found


def direct_dependencies() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    texts = [*project["dependencies"], *extras["hf"], *extras["sign"], *extras["dev"]]
    return sorted({normal(re.match(r"[\w.-]+", text)[0]) for text in texts} - {"fanal"})


@pytest.mark.parametrize("name", direct_dependencies())
def test_a_direct_dependency_is_locked_at_the_version_that_was_tested(name: str) -> None:
    tested = versions(ROOT / "constraints.txt")[name]
    for lock in LOCKS[1:3] if name == "torch" else LOCKS[:1]:
        assert versions(lock)[name] == tested, f"{lock.name}: `make lock` writes it again"


def test_triton_is_locked_in_the_version_that_torchs_cuda_build_brings() -> None:
    (locked,) = versions(ROOT / "locks" / "kernels.txt")["triton"]
    assert versions(ROOT / "locks" / "torch-cuda.txt")["triton"] == {locked}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["kernels"] == [f"triton=={locked}; sys_platform == 'linux'"]


def test_flash_attn_is_locked_in_the_version_whose_interface_we_follow() -> None:
    (locked,) = versions(ROOT / "locks" / "flash4.txt")["flash-attn-4"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["gpu"] == [f"flash-attn-4=={locked}"]
    assert f"version {locked}" in (ROOT / "kernels" / "flash4_attention.py").read_text()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_package_of_a_lock_has_a_hash_and_no_address(lock: Path) -> None:
    assert entries(lock)
    for entry in entries(lock):
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry
    assert not re.search(r"(?m)^[^#]*(://|--index|--find-links)", lock.read_text())


def test_the_page_of_licences_names_the_versions_of_the_locks() -> None:
    page = re.findall(r"(?m)^\| ([\w.-]+) (\S+) \|", (ROOT / "docs" / "dependencies.md").read_text())
    locked = {name: found for lock in LOCKS for name, found in versions(lock).items()}
    assert {name for name, version in page if version not in locked.get(name, ())} == set()
    assert set(direct_dependencies()) <= {name for name, _ in page}


def test_what_the_locks_leave_out_is_not_imported_to_encode() -> None:
    assert "awkward" not in versions(LOCKS[0])
    program = "import sys; import tokenizer.encoding.encode; from gigatoken.gigatoken_rs import load_hf_json; print('awkward' in sys.modules)"
    asked = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert asked.stdout == "False\n"
