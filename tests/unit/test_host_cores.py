"""The cores that there are: those this process may use, or fewer where a group of either version limits their time."""

import os
from pathlib import Path

import pytest

from fanal.host_cores import cores_of_node, host_cores
from tests.unit.real_groups import group_with, said_inside


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """32 cores, no job."""
    monkeypatch.delenv("SLURM_CPUS_ON_NODE", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 32)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(32)))


def write_group(root: Path, version: int, **numbers: str) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(
        {2: "0::/job/step\n", 1: "3:cpu,cpuacct:/job/step\n4:memory:/other\n"}[version]
    )
    at, kind, options = {2: ("cgroup", "cgroup2", "rw"), 1: ("cgroup/cpu", "cgroup", "rw,cpu,cpuacct")}[version]
    (root / "proc/self/mountinfo").write_text(f"35 31 0:32 / /sys/fs/{at} rw shared:9 - {kind} {kind} {options}\n")
    place = root / "sys/fs" / at / "job"
    place.mkdir(parents=True)
    for name, text in numbers.items():
        (place / name.replace("__", ".")).write_text(text)
    return root


@pytest.mark.parametrize(
    ("limit", "cores"), [("600000 100000", 6), ("250000 100000", 3), ("5000 100000", 1), ("max 100000", 32)]
)
def test_a_share_of_time_in_version_2_counts_on_every_level(limit: str, cores: int, tmp_path: Path) -> None:
    assert host_cores(write_group(tmp_path, 2, cpu__max=f"{limit}\n")) == cores


@pytest.mark.parametrize(("quota", "cores"), [("400000", 4), ("-1", 32)])
def test_a_share_of_time_in_version_1_counts(quota: str, cores: int, tmp_path: Path) -> None:
    assert host_cores(write_group(tmp_path, 1, cpu__cfs_quota_us=quota, cpu__cfs_period_us="100000")) == cores


def test_a_process_that_is_bound_has_fewer_cores_than_its_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {4, 5})
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "8")
    assert (host_cores(tmp_path), cores_of_node(tmp_path)) == (2, 8)


def test_a_real_group_s_limit_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with group_with("cpu", {"cpu.max": "100000 100000", "cpu.cfs_quota_us": "100000"}) as folder:
        assert said_inside(folder, "from fanal.host_cores import host_cores; print(host_cores())") == "1\n"
