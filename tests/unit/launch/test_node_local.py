"""Code and packages on each node's own disk: where a site wants them, and where they have room."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fanal.errors import UserError
from fanal.free_space import is_memory
from fanal.host_memory import HostMemory
from launch.chain.script import script
from launch.preflight.node_local import ARCHIVE, check_node_local
from launch.sites.site import known_sites, load_site
from tests.runs.disks import small_disk
from tests.unit.launch.test_job_requests import plan
from tests.unit.real_groups import group_with, said_inside

ROOT = Path(__file__).parents[3]


def archive_of(folder: Path, num_bytes: int) -> Path:
    archive = folder / "environment.tar"
    with archive.open("wb") as stream:
        stream.truncate(num_bytes)
    return archive


@pytest.mark.parametrize(("asked", "site", "is_local"), [
    (None, "jean-zay-h100", True), (False, "jean-zay-h100", False), (True, "jean-zay-h100", True), (None, "generic", True),
])  # fmt: skip
def test_a_site_says_whether_jobs_run_from_the_nodes_disks_and_a_request_has_the_last_word(
    asked: bool | None, site: str, is_local: bool
) -> None:
    job = plan(site=site, nodes=2, node_local=asked)
    assert job.node_local is is_local
    assert ("export FANAL_PACKED=" in script(job, {})) is is_local


def test_every_site_with_gpus_runs_from_the_nodes_disks() -> None:
    sites = {name: load_site(name) for name in known_sites()}
    assert {name for name, site in sites.items() if site.node_local} == {
        name for name, site in sites.items() if site.gpus_per_node
    }


def test_an_archive_that_fits_is_said_with_what_it_takes(tmp_path: Path) -> None:
    said = check_node_local(archive_of(tmp_path, 5_000_000), tmp_path)
    assert said.startswith(f"code and packages take 5.0 MB of {tmp_path} on each node, and ")


def test_what_lies_in_memory_counts_to_the_job_s_limit(tmp_path: Path) -> None:
    folder, archive = tmp_path / "node", archive_of(tmp_path, 300_000_000)
    job = HostMemory(total_bytes=1 << 30, available_bytes=200_000_000, source="a group")
    with small_disk(folder, "size=1g"):
        assert is_memory(folder)
        with pytest.raises(
            UserError, match=r"take 0.3 GB of .*, and 0.2 GB are left of the job's memory, .*--no-node-local works"
        ):
            check_node_local(archive, folder, job)
        check_node_local(archive_of(tmp_path, 100_000_000), folder, job)
    small = tmp_path / "small"
    with small_disk(small, "size=16m"), pytest.raises(UserError, match=r"and 16.8 MB are free; --no-node-local works"):
        check_node_local(archive, small, job)


def test_the_limit_of_a_real_group_counts(tmp_path: Path) -> None:
    if not is_memory(Path("/dev/shm")):
        pytest.skip("/dev/shm is no memory here")
    archive, limit = archive_of(tmp_path, 1 << 30), str(512 << 20)
    program = (
        "from fanal.errors import UserError; from pathlib import Path; from launch.preflight.node_local import check_node_local\n"
        "try:\n"
        f'    print(check_node_local(Path("{archive}"), Path("/dev/shm")))\n'
        "except UserError as error:\n"
        "    print(error)\n"
    )
    with group_with("memory", {"memory.max": limit, "memory.limit_in_bytes": limit}) as folder:
        assert "GB are left of the job" in said_inside(folder, program)


def test_an_archive_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"environment.tar must be there, and is not \(No such file .*; render the job again"
    ):
        check_node_local(tmp_path / "environment.tar", tmp_path)


def test_the_last_mount_on_the_nearest_place_says_what_a_folder_is(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"/dev/sda / ext4 rw 0 0\na {tmp_path} tmpfs rw 0 0\nb {tmp_path}/inner tmpfs rw 0 0\nc {tmp_path}/inner ext4 rw 0 0\n"
    )
    (tmp_path / "inner").mkdir()
    assert (
        is_memory(tmp_path, mounts) and not is_memory(tmp_path / "inner", mounts) and not is_memory(Path("/"), mounts)
    )


def test_preflight_of_a_job_refuses_an_archive_that_does_not_fit(small_run: Path, tmp_path: Path) -> None:
    site = tmp_path / "machine.yaml"
    site.write_text(f"description: here\ngpus_per_node: 0\ncores_per_node: 4\nnode_local_dir: {tmp_path}\n")
    archive = archive_of(tmp_path, 15 << 40)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")} | {
        ARCHIVE: str(archive)
    }
    command = [
        sys.executable,
        "-m",
        "launch",
        "preflight",
        str(small_run),
        f"run_dir={tmp_path}/mine",
        "--site",
        str(site),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 2 and "code and packages take 16,492.7 GB of " in done.stderr, done.stderr
