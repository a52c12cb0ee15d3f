"""An archive for node-local disks holds a whole Python: nothing is read elsewhere, and nothing compiled."""

import json
import os
import subprocess
import tarfile
import venv
from pathlib import Path

import pytest

from fanal.errors import UserError
from launch.chain.packed import PACKAGES, pack_environment, python_at

ROOT = Path(__file__).parents[3]
ELSEWHERE = """
import json, sys
opened, compiled = [], []
def look(event, details):
    if event in ("open", "os.listdir", "os.scandir"):
        opened.append(str(details[0]))
    elif event == "compile" and details[1] is not None and str(details[1]).endswith(".py"):
        compiled.append(str(details[1]))
sys.addaudithook(look)
import decimal, sqlite3, xml.dom.minidom, fanal.errors, tiny, tiny.inner, launch.chain.jobs_file
print(json.dumps({"path": sys.path, "opened": opened, "compiled": compiled, "tiny": tiny.VALUE, "executable": sys.executable,
                  "files": [m.__file__ for m in list(sys.modules.values()) if getattr(m, "__file__", None)]}))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of one package, one of whose modules has bytecode from before a change."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "tiny").mkdir()
    (packages / "tiny/__init__.py").write_text("VALUE = 'old'\n")
    subprocess.run([folder / "bin/python", "-m", "compileall", "-q", packages / "tiny"], check=True)
    (packages / "tiny/__init__.py").write_text("VALUE = 'a new one'\n")
    (packages / "tiny/inner.py").write_text("")
    (packages / "tiny/for_another_python.py").write_text("print 'so'\n")
    (packages / "beside.pth").write_text(f"{folder}/beside\n")
    (folder / "beside").mkdir()
    return folder / "bin/python"


@pytest.fixture(scope="module")
def unpacked(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A node's own disk, on another second than that of the packing."""
    folder = tmp_path_factory.mktemp("node")
    pack_environment(python, ROOT, folder / "environment.tar")
    subprocess.run(["tar", "-xf", folder / "environment.tar", "-C", folder], check=True)
    return folder


def on_the_node(folder: Path, code: str) -> dict:
    """What a program prints in the environment that node.sh gives to ranks."""
    lines = (ROOT / "launch/chain/node.sh").read_text().splitlines()
    (export,) = (line.strip() for line in lines if 'PYTHONHOME="$mine' in line)
    script = f'unset PYTHONNOUSERSITE\n{export}\nexec "$PYTHON" -c "$1"'
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"mine": str(folder), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        ["bash", "-c", script, "bash", code], env=environment, capture_output=True, text=True, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_node_s_python_reads_and_compiles_nothing_outside_its_folder(unpacked: Path, python: Path) -> None:
    found = on_the_node(unpacked, ELSEWHERE)
    assert found["tiny"] == "a new one"
    assert found["compiled"] == []
    for file in (*found["files"], *found["opened"]):
        assert Path(file).is_relative_to(unpacked), file
    beside = str(python.parents[1] / "beside")
    assert beside in found["path"], "what .pth files name is on the path, as it was"
    assert all(Path(folder).is_relative_to(unpacked) for folder in found["path"] if folder != beside)
    assert Path(found["executable"]).is_relative_to(unpacked)


def test_headers_for_compiled_kernels_are_there(unpacked: Path, python: Path) -> None:
    headers = on_the_node(unpacked, "import json, sysconfig; print(json.dumps({'is': sysconfig.get_path('include')}))")[
        "is"
    ]
    assert Path(headers).is_relative_to(unpacked)
    assert Path(headers, "Python.h").is_file() == Path(python_at(python).headers, "Python.h").is_file()


def test_bytecode_that_lies_beside_its_source_is_taken_and_not_made_again(python: Path, tmp_path: Path) -> None:
    code = tmp_path / "code"
    for package in PACKAGES:
        (code / package).mkdir(parents=True)
        (code / package / "__init__.py").write_text("")
    subprocess.run([python, "-m", "compileall", "-q", code / "fanal"], check=True)
    (there,) = (code / "fanal/__pycache__").iterdir()
    os.utime(there, (1, 1))
    pack_environment(python, code, tmp_path / "environment.tar")
    with tarfile.open(tmp_path / "environment.tar") as archive:
        times = {package: archive.getmember(f"code/{package}/__pycache__/{there.name}").mtime for package in PACKAGES}
    assert times["fanal"] == 1 and times["launch"] > 1


def test_packages_that_are_on_the_path_by_a_link_too_are_packed_once(
    python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = python_at(python).packages
    (tmp_path / "lib64").symlink_to(python.parents[1] / "lib")  # as in virtual environments of Fedora and RHEL
    (packages,) = tmp_path.glob("lib64/python*/site-packages")
    monkeypatch.setenv("PYTHONPATH", str(packages))
    assert python_at(python).packages == before == [os.path.realpath(packages)]


def test_a_python_that_does_not_run_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'no module loaded' >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(UserError, match=r"Python \(.*\) must run and have site-packages: no module loaded"):
        pack_environment(broken, ROOT, tmp_path / "environment.tar")
    assert not list(tmp_path.glob("environment.tar*"))
