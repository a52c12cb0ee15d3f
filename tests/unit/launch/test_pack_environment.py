"""An environment packed for another machine: what is asked of pip, and the script that installs it without a network."""

import os
import platform
import subprocess
import sys
import zipfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from click.testing import CliRunner

from fanal.errors import UserError
from launch.__main__ import cli
from launch.offline import pack
from launch.offline.pack import LOCKS, PackingError, own_locks, pack_offline, platforms
from launch.offline.requirements import requirements_for
from launch.sites.site import load_site

ROOT = Path(__file__).parents[3]
HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
HASH = f"sha256:{'0' * 64}"
LOCK = f"""\
# made by hand
one==1.0 \\
    --hash={HASH} \\
    --hash={HASH.replace("0", "1")}
arm==2.0 ; platform_machine == 'aarch64' and sys_platform == 'linux' \\
    --hash={HASH}
old==3.0 ; python_full_version < '3.12' \\
    --hash={HASH}
windows==4.0 ; sys_platform == 'win32' \\
    --hash={HASH}
"""


def wheel(folder: Path, name: str = "tiny") -> Path:
    """A wheel of one module, made by hand."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr(f"{name}.py", "said = 'here'\n")
        made.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        made.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        made.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


@pytest.mark.parametrize(
    ("architecture", "version", "names"),
    [("x86_64", "3.11", ["one", "old"]), ("aarch64", "3.11", ["one", "arm", "old"]), ("aarch64", "3.12", ["one", "arm"])],
)  # fmt: skip
def test_markers_are_read_for_the_other_machine(
    architecture: str, version: str, names: list[str], tmp_path: Path
) -> None:
    (tmp_path / "lock").write_text(LOCK)
    found = requirements_for(tmp_path / "lock", architecture, version)
    assert [line.partition("==")[0] for line in found] == names
    assert found[0] == f"one==1.0 --hash={HASH} --hash={HASH.replace('0', '1')}"


def test_the_locks_hold_the_gpu_libraries_of_both_processors() -> None:
    for architecture in ("x86_64", "aarch64"):
        names = {
            line.partition("==")[0]
            for name in LOCKS
            for line in requirements_for(ROOT / "locks" / name, architecture, "3.11")
        }
        assert names >= {"torch", "nvidia-nccl-cu13", "megatron-core", "triton", "setuptools"}
        assert not names & {"colorama"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("one\n", r"'one' must be a version with the hashes of its files"), (f"one>=1 --hash={HASH}\n", "must be a version with the hashes"),
        ("one==1.0\n", "must be a version with the hashes"), (f"-e . --hash={HASH}\n", "must be a requirement; click==8.1.7"),
        (f"one==1.0 ; nothing == 'a' --hash={HASH}\n", "must be a requirement"),
    ],
)  # fmt: skip
def test_a_line_that_pins_nothing_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(text)
    with pytest.raises(UserError, match=said):
        requirements_for(tmp_path / "lock", "x86_64", "3.11")


def test_sites_that_give_no_environment_are_refused(tmp_path: Path) -> None:
    def packed(name: str, **changes: object) -> int:
        wanted = {"archive": tmp_path / "a.tar", "python_version": "3.11", "locks": [], "code_dir": tmp_path, **changes}
        return pack_offline(load_site(name), name, **wanted)  # pyright: ignore[reportArgumentType]

    for name, changes, said in (
        ("generic", {}, "architecture of generic, which is empty, must say for which processor wheels are"),
        ("jupiter", {"python_version": "3.9"}, r"--python-version \(3.9\) must be one of 3.11, 3.12, 3.13; 3.11 works"),
        ("lumi-g", {}, "--requirements must be given for lumi-g, since the locks here are for NVIDIA's GPUs"),
        (
            "jupiter",
            {},
            "--requirements must be given, since .*requirements.txt is not there: only a checkout has locks",
        ),
        ("jupiter", {"locks": [tmp_path / "none"]}, "none must be a file of requirements with hashes"),
    ):
        with pytest.raises(UserError, match=said):
            packed(name, **changes)
    assert not list(tmp_path.iterdir())
    (tmp_path / "windows").write_text(f"colorama==0.4.6 ; sys_platform == 'win32' --hash={HASH}\n")
    with pytest.raises(
        UserError, match=r"--requirements \(.*windows\) must name a package for aarch64 and Python 3.11, and names none"
    ):
        packed("jupiter", locks=[tmp_path / "windows"])
    assert [path.name for path in own_locks(load_site("jean-zay-v100"), "jean-zay-v100", ROOT)] == list(LOCKS)


def test_tags_go_from_the_newest_glibc_to_the_oldest() -> None:
    for architecture, oldest in (("x86_64", "manylinux1_x86_64"), ("aarch64", "manylinux2014_aarch64")):
        tags = platforms(architecture)
        assert (
            tags[0] == f"manylinux_2_28_{architecture}" and oldest in tags and f"manylinux_2_17_{architecture}" in tags
        )
        assert all(tag.endswith(architecture) for tag in tags) and not any("2_29" in tag for tag in tags)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive for this machine, with a wheel that was made here in place of a download."""
    made = wheel(tmp_path)
    lock = tmp_path / "lock"
    lock.write_text(f"tiny==1.0 --hash=sha256:{sha256(made.read_bytes()).hexdigest()}\n")
    asked = []

    def pip(*words: str) -> None:
        asked.append(words)
        folder = Path(words[words.index("--dest") + 1])
        folder.mkdir()
        made.rename(folder / made.name)

    monkeypatch.setattr(pack, "_pip", pip)
    site = replace(load_site("jean-zay-h100"), architecture=platform.machine())
    found = tmp_path / "fanal.tar"
    assert pack_offline(site, "mine", archive=found, python_version=HERE, locks=[lock], code_dir=ROOT) == 1
    (words,) = asked
    assert words[0] == "download" and {
        "--only-binary=:all:",
        "--require-hashes",
        "--no-deps",
        f"manylinux_2_28_{platform.machine()}",
    } <= set(words)
    (tmp_path / "there").mkdir()
    subprocess.run(["tar", "--extract", "--file", found, "--directory", tmp_path / "there"], check=True)
    return tmp_path / "there" / "fanal"


def install(archive: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Its script, where no index answers and pip's own settings are another."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP"))}
    env |= {
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    return subprocess.run(
        ["bash", str(archive / "install.sh"), *words], cwd=archive.parent, env=env, capture_output=True, text=True
    )


def test_the_script_installs_without_a_network_once_and_only_what_was_packed(archive: Path) -> None:
    done = install(archive, "environment", sys.executable)
    assert done.returncode == 0, done.stderr
    python = archive.parent / "environment" / "bin" / "python"
    assert done.stdout == f"{archive.parent / 'environment'}: 1 packages; {python} is its Python\n"
    assert (
        subprocess.run([python, "-c", "import tiny; print(tiny.said)"], capture_output=True, text=True).stdout
        == "here\n"
    )
    again = install(archive, "environment", sys.executable)
    assert again.returncode == 2 and "must not be there yet; another folder works" in again.stderr


def test_the_script_refuses_another_machine_and_bytes_that_changed(archive: Path) -> None:
    target = archive / "target"
    text, sums = target.read_text(), (archive / "SHA256SUMS").read_text()
    target.write_text(text.replace(platform.machine(), "sparc"))
    changed = install(archive, "environment", sys.executable)
    assert changed.returncode != 0 and "target: FAILED" in changed.stdout + changed.stderr
    (archive / "SHA256SUMS").write_text(
        sums.replace(sha256(text.encode()).hexdigest(), sha256(target.read_bytes()).hexdigest())
    )
    other = install(archive, "environment", sys.executable)
    assert other.returncode == 2
    assert f"this archive is for sparc and Python {HERE}, and here is {platform.machine()} {HERE}" in other.stderr
    assert not (archive.parent / "environment").exists()


def test_what_pip_says_is_the_error_and_no_archive_is_left(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(LOCK)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PIP_INDEX_URL", "http_proxy", "https_proxy"):
            patch.setenv(name, "http://127.0.0.1:9/simple")
        patch.setenv("PIP_RETRIES", "0")
        words = [
            "pack-environment",
            "--site",
            "jupiter",
            "--to",
            str(tmp_path / "a.tar"),
            "--requirements",
            str(tmp_path / "lock"),
        ]
        done = CliRunner().invoke(cli, words)
    assert done.exit_code == PackingError.exit_code
    assert "error: pip download failed (1): " in done.output and "one==1.0" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none/a.tar", "must name a file in a folder that exists"), ("there.tar", "must not be there yet; --to "),
        ("a.yaml", "must name a tar file; --to "),
    ],
)  # fmt: skip
def test_an_archive_that_could_not_be_written_is_refused_before_a_download(
    name: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "there.tar").write_text("somebody's")
    done = CliRunner().invoke(cli, ["pack-environment", "--site", "jupiter", "--to", str(tmp_path / name)])
    assert done.exit_code == 2 and said in done.output and len(done.output.splitlines()) == 1
    assert (tmp_path / "there.tar").read_text() == "somebody's" and len([*tmp_path.iterdir()]) == 1
