"""Wheels of the real registry for two processors, and an environment that is made of them without it."""

import os
import platform
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from launch.offline.pack import pack_offline
from launch.sites.site import load_site

ROOT = Path(__file__).parents[2]
FEW = ("blake3", "click", "colorama")
"""One package with a wheel for each processor, one for all, and one that only Windows has."""


@pytest.fixture(scope="module")
def lock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lock's own lines of a few packages."""
    text = (ROOT / "locks" / "requirements.txt").read_text()
    found = [re.search(rf"(?m)^{name}==(?:.*\\\n)+.*\n", text) for name in FEW]
    path = tmp_path_factory.mktemp("lock") / "few.txt"
    path.write_text("".join(one[0] for one in found if one))
    return path


@pytest.mark.parametrize("site_name", ["jean-zay-h100", "jupiter"])
def test_wheels_for_a_site_s_processor_are_packed_and_installed_where_it_is_this_one(
    site_name: str, lock: Path, tmp_path: Path
) -> None:
    site, version = load_site(site_name), f"3.{sys.version_info[1]}"
    archive = tmp_path / "few.tar"
    assert pack_offline(site, site_name, archive=archive, python_version=version, locks=[lock], code_dir=ROOT) == 2
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    wheels = sorted(path.name for path in (tmp_path / "few" / "wheels").iterdir())
    assert len(wheels) == 2
    assert wheels[0].startswith("blake3-") and wheels[0].endswith(f"_{site.architecture}.whl")
    env = {**os.environ, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "https_proxy": "http://127.0.0.1:9"}
    words = ["bash", str(tmp_path / "few" / "install.sh"), str(tmp_path / "environment"), sys.executable]
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    if site.architecture != platform.machine():
        assert done.returncode == 2 and f"this archive is for {site.architecture}" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    program = "import blake3, click; print(blake3.blake3(b'').hexdigest()[:8])"
    asked = subprocess.run([tmp_path / "environment" / "bin" / "python", "-c", program], capture_output=True, text=True)
    assert asked.stdout == "af1349b9\n"
