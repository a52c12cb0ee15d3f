"""Ranks bound to the cores beside their GPU, as a made-up sysfs has them."""

import contextlib
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pretrain.parallel.binding import CORES_OF_RANKS, NUMA_BINDING, bind_to_gpu, cores_beside

ADDRESS = "0000:1b:00.0"


def sysfs(folder: Path, node: str, cores: str) -> Path:
    for path, text in (
        (f"bus/pci/devices/{ADDRESS}/numa_node", node),
        (f"devices/system/node/node{max(0, int(node))}/cpulist", cores),
    ):
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_text(f"{text}\n")
    return folder


@pytest.mark.parametrize(
    ("node", "cores", "expected"),
    [("1", "24-27,72-73", {24, 25, 26, 27, 72, 73}), ("0", "3", {3}), ("-1", "0-1", {0, 1})],
)
def test_cores_beside_a_device_are_those_of_its_node(node: str, cores: str, expected: set[int], tmp_path: Path) -> None:
    assert cores_beside(ADDRESS, sysfs(tmp_path, node, cores)) == expected


def bound(folder: Path, monkeypatch: pytest.MonkeyPatch, *, asked: str) -> set[int]:
    """The cores of a thread that binds itself; those of the test's own process stay as they are."""
    place = SimpleNamespace(pci_domain_id=0, pci_bus_id=0x1B, pci_device_id=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: place)
    monkeypatch.setenv(NUMA_BINDING, asked)
    before, found = os.sched_getaffinity(0), set[int]()

    def act() -> None:
        bind_to_gpu(0, sysfs=folder)
        found.update(os.sched_getaffinity(0))

    thread = threading.Thread(target=act)
    thread.start()
    thread.join()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # a thread that has ended since
            os.sched_setaffinity(int(task.name), before)
    return found


def test_a_rank_is_bound_where_the_job_asks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core = min(os.sched_getaffinity(0))
    folder = sysfs(tmp_path, "0", f"{core},4000-4001")
    assert bound(folder, monkeypatch, asked="node") == {core}
    assert bound(folder, monkeypatch, asked="") == os.sched_getaffinity(0)


@pytest.mark.parametrize("asked", ["", "node"])
def test_cores_that_the_site_names_come_before_what_sysfs_says(
    asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = max(os.sched_getaffinity(0))
    monkeypatch.setenv(CORES_OF_RANKS, f"{core},5000 6000-6001")
    assert bound(sysfs(tmp_path, "0", "4000"), monkeypatch, asked=asked) == {core}


@pytest.mark.parametrize("named", ["6000-6001", "x"])
def test_cores_that_the_site_names_and_a_job_does_not_have_bind_nothing(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(CORES_OF_RANKS, named)
    assert bound(tmp_path, monkeypatch, asked="node") == os.sched_getaffinity(0)
    assert f"warning: rank of GPU 0 ({CORES_OF_RANKS}) is bound to no cores: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cores", "reason"), [("4000-4001", "no core beside it is this job's"), (None, "No such file")]
)
def test_a_rank_that_cannot_be_bound_says_so_and_goes_on(
    cores: str | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path if cores is None else sysfs(tmp_path, "0", cores)
    assert bound(folder, monkeypatch, asked="node") == os.sched_getaffinity(0)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: rank of GPU 0 ({ADDRESS}) is bound to no cores: ") and reason in line
