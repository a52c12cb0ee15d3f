"""The memory that there is: the machine's, or what a group of either version leaves of it."""

from pathlib import Path

import pytest

from fanal.host_memory import host_memory
from tests.unit.real_groups import group_with, said_inside

GIB = 1 << 30
FILE_IN_MEMORY = """
import os
from fanal.host_memory import host_memory
before = host_memory()
descriptor = os.memfd_create("file")
os.write(descriptor, bytes(64 << 20))
print(before.total_bytes, before.available_bytes, host_memory().available_bytes)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine of 64 GiB, 40 of them free, without groups."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(
        f"MemTotal:       {64 << 20} kB\nMemFree:        {1 << 20} kB\nMemAvailable:   {40 << 20} kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n"
    )
    return tmp_path


def write_group(root: Path, *, version: int, path: str, top: str, folder: str, **numbers: str) -> None:
    groups = {2: f"0::{path}\n", 1: f"5:cpu:/elsewhere\n4:memory:{path}\n"}[version]
    (root / "proc/self/cgroup").write_text(groups)
    at, kind, options = {2: ("/sys/fs/cgroup", "cgroup2", "rw"), 1: ("/sys/fs/cgroup/memory", "cgroup", "rw,memory")}[
        version
    ]
    (root / "proc/self/mountinfo").write_text(f"35 31 0:32 {top} {at} rw,relatime shared:9 - {kind} {kind} {options}\n")
    place = root / at.lstrip("/") / folder
    place.mkdir(parents=True)
    for name, text in numbers.items():
        (place / name.replace("__", ".")).write_text(text)


def test_without_a_group_it_is_the_machine_s(root: Path) -> None:
    memory = host_memory(root)
    assert (memory.total_bytes, memory.available_bytes) == (64 * GIB, 40 * GIB)
    assert memory.source.endswith("proc/meminfo")


def test_swap_space_counts(root: Path) -> None:
    text = (root / "proc/meminfo").read_text()
    (root / "proc/meminfo").write_text(
        text.replace("SwapTotal: 0", f"SwapTotal: {8 << 20}").replace("SwapFree: 0", f"SwapFree: {2 << 20}")
    )
    memory = host_memory(root)
    assert (memory.total_bytes, memory.available_bytes) == (72 * GIB, 42 * GIB)


@pytest.mark.parametrize("folder", ["user.slice/job", "user.slice", "."])
def test_a_limit_of_version_2_counts_on_every_level(folder: str, root: Path) -> None:
    write_group(
        root, version=2, path="/user.slice/job", top="/", folder=folder, memory__max=f"{8 * GIB}\n", memory__current=f"{5 * GIB}\n",
        memory__stat=f"anon 7\ninactive_file {GIB}\nactive_file {GIB}\n",
    )  # fmt: skip
    memory = host_memory(root)
    assert (memory.total_bytes, memory.available_bytes) == (8 * GIB, 5 * GIB), "cached files go when memory is needed"
    assert memory.source.endswith("memory.max")


def test_a_limit_of_version_1_counts(root: Path) -> None:
    write_group(
        root, version=1, path="/docker/abc", top="/docker/abc", folder=".", memory__limit_in_bytes=f"{4 * GIB}\n",
        memory__usage_in_bytes=f"{3 * GIB}\n", memory__stat=f"inactive_file 7\ntotal_inactive_file {GIB}\ntotal_active_file 0\n",
    )  # fmt: skip
    memory = host_memory(root)
    assert (memory.total_bytes, memory.available_bytes) == (4 * GIB, 2 * GIB)
    assert memory.source.endswith("memory.limit_in_bytes")


def test_a_group_below_a_mount_with_a_space_is_found_and_a_line_that_is_none_is_passed_over(root: Path) -> None:
    write_group(root, version=2, path="/job", top="/", folder="job", memory__max=f"{8 * GIB}\n", memory__current="5\n")
    (root / "sys/fs/cgroup").rename(root / "sys/fs/c group")
    mounts, groups = root / "proc/self/mountinfo", root / "proc/self/cgroup"
    mounts.write_text(mounts.read_text().replace("/sys/fs/cgroup", "/sys/fs/c\\040group"))
    groups.write_text("\nno group\n" + groups.read_text())
    assert host_memory(root).total_bytes == 8 * GIB


@pytest.mark.parametrize("limit", ["max\n", f"{2**63 - 4096}\n", "", "8²\n"])
def test_a_group_without_a_limit_changes_nothing(limit: str, root: Path) -> None:
    write_group(root, version=2, path="/job", top="/", folder="job", memory__max=limit, memory__current="5\n")
    assert host_memory(root).total_bytes == 64 * GIB


def test_this_machine_has_some() -> None:
    memory = host_memory()
    assert 0 < memory.available_bytes <= memory.total_bytes


def test_a_real_group_s_limit_is_found_and_a_file_in_memory_counts_to_it() -> None:
    limit = 512 << 20
    with group_with("memory", {"memory.max": str(limit), "memory.limit_in_bytes": str(limit)}) as folder:
        said = said_inside(folder, FILE_IN_MEMORY)
    total, before, after = map(int, said.split())
    (swap,) = (
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("SwapTotal")
    )
    assert total == limit + swap >= before
    assert 60 << 20 < before - after < 80 << 20
