"""Energy: Slurm's accounts from a sacct on the path, and counters in a folder like /sys/class/powercap."""

import ctypes
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fanal.energy_counters import open_zones
from fanal.errors import DamageError
from fanal.gpu_energy import open_gpu
from fanal.records import object_bytes
from fanal.run_folder import ENERGY_DIR
from pretrain.ledger.slurm_energy import JobEnergy, jobs_energy
from pretrain.log.energy_file import NVML, RAPL, EnergyFile, read_energy, write_energy_file
from pretrain.train import energy as energy_module
from pretrain.train.energy import EnergyMeter, measured_energy
from tests.unit.every_bit import unnoticed_bits

CPU = torch.device("cpu")


def put_sacct(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, *, code: int = 0) -> Path:
    """A sacct that prints this and notes how it was called."""
    command = folder / "sacct"
    (folder / "answer").write_text(text)
    command.write_text(f'#!/bin/sh\necho "$@" >"{folder}/called"\ncat "{folder}/answer"\nexit {code}\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder / "called"


ACCOUNTS = """\
71|3600|9000000
71.batch|3600|9000000
71.extern|3600|0
71.0|3500|8800000
72|100|
72.batch|100|40000
72.extern|100|
72.0|40|30000
72.1|50|35000
73|20|18446744073709551614
73.0|20|18446744073709551614
74|50|1000
74.0|50|900
74|30|500
74.0|30|450
711|5|77
"""


def test_the_line_of_a_job_counts_else_its_own_steps_and_requeues_add_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = put_sacct(tmp_path, monkeypatch, ACCOUNTS)
    monkeypatch.setenv("SACCT_FORMAT", "nodelist")
    found, problem = jobs_energy(["71", "72", "73", "74", "75"])
    assert problem is None
    assert found == {
        "71": JobEnergy(job="71", elapsed_s=3600, joules=9_000_000, from_steps=False),
        "72": JobEnergy(job="72", elapsed_s=100, joules=65_000, from_steps=True),
        "73": JobEnergy(job="73", elapsed_s=20, joules=None, from_steps=False),
        "74": JobEnergy(job="74", elapsed_s=80, joules=1_500, from_steps=False),
    }
    assert "--jobs=71,72,73,74,75 --duplicates" in called.read_text()


def test_a_sacct_that_fails_or_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_sacct(tmp_path, monkeypatch, "Slurm accounting storage is disabled\n", code=1)
    assert jobs_energy(["71"]) == ({}, "sacct failed (1): Slurm accounting storage is disabled")
    put_sacct(tmp_path, monkeypatch, "")
    assert jobs_energy(["71"]) == ({}, "sacct has no account of these jobs")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert jobs_energy(["71"]) == ({}, "sacct is not on this machine")
    assert jobs_energy([]) == ({}, "no start was a Slurm job")


class FakeNvml:
    """NVML with GPUs at PCI addresses, called with C's types as the library is."""

    def __init__(self, millijoules: dict[str, int]) -> None:
        self.millijoules, self.code, addresses = millijoules, 0, list(millijoules)

        def handle_of(address: bytes, handle: Any) -> int:
            if address.decode() not in addresses:
                return NOT_FOUND
            handle[0] = 1 + addresses.index(address.decode())
            return 0

        def energy_of(handle: int, value: Any) -> int:
            value[0] = self.millijoules[addresses[handle - 1]]
            return self.code

        pointer, number = ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_ulonglong)
        self.nvmlInit_v2 = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 0)
        self.nvmlDeviceGetHandleByPciBusId_v2 = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, pointer)(handle_of)
        self.nvmlDeviceGetTotalEnergyConsumption = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, number)(energy_of)


NOT_FOUND, NOT_SUPPORTED = 6, 3
FIRST, SECOND = "0000:1b:00.0", "0000:4c:00.0"


def test_a_gpu_counts_millijoules_through_a_reset_and_a_failure() -> None:
    nvml = FakeNvml({FIRST: 5_000, SECOND: 70_000_000_000_000})
    gpu, other = open_gpu(FIRST, library=nvml), open_gpu(SECOND, library=nvml)
    assert gpu is not None and other is not None and gpu.name == f"nvml:{FIRST}"
    for value in (9_000, 9_000, 1_000):
        nvml.millijoules[FIRST] = value
        gpu.read()
    assert gpu.total_uj == 4_000_000 + 0 + 1_000_000
    nvml.millijoules[FIRST], nvml.code = 50_000, NOT_SUPPORTED
    gpu.read()
    assert gpu.total_uj == 5_000_000, "what a failed call leaves behind is no figure"
    nvml.millijoules[FIRST], nvml.code = 3_000, 0
    gpu.read()
    nvml.millijoules[SECOND] += 1
    other.read()
    assert (gpu.total_uj, other.total_uj) == (7_000_000, 1_000)


def test_no_driver_no_such_gpu_and_one_without_a_counter_have_none() -> None:
    assert open_gpu("ffff:00:00.0") is None and open_gpu("ffff:00:00.0", library=FakeNvml({FIRST: 0})) is None
    assert open_gpu(FIRST, library=object()) is None, "a driver without these functions"
    old = FakeNvml({FIRST: 0})
    old.code = NOT_SUPPORTED
    assert open_gpu(FIRST, library=old) is None


def test_each_rank_measures_its_gpu_and_the_first_of_a_node_the_node(
    tmp_path: Path, powercap: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml = FakeNvml({FIRST: 1_000_000, SECOND: 2_000_000})
    monkeypatch.setattr(energy_module, "pci_address", [FIRST, SECOND, SECOND].__getitem__)
    monkeypatch.setattr(energy_module, "open_gpu", lambda address: open_gpu(address, library=nvml))
    for rank, rises in ((0, 500_000), (1, 300_000), (2, 200_000)):
        for name, value in (("RANK", rank), ("WORLD_SIZE", 3), ("LOCAL_RANK", rank)):
            monkeypatch.setenv(name, str(value))
        folder, device = powercap["intel-rapl:0"].parents[1], torch.device("cuda", rank)
        with measured_energy(tmp_path, start=1, device=device, powercap=folder):
            powercap["intel-rapl:0"].write_text(f"{500_000_000 + 1_000_000 * (rank + 1)}\n")
            nvml.millijoules[FIRST if rank == 0 else SECOND] += rises
    assert sorted(path.name for path in (tmp_path / ENERGY_DIR).iterdir()) == [
        f"start-00001-rank-{rank:05d}.json" for rank in range(3)
    ]
    assert read_energy(tmp_path, 1) == {RAPL: 1.0, NVML: 500.0 + 300.0}, "ranks 1 and 2 share a GPU"


def put_zone(folder: Path, name: str, label: str, value: int, *, top: int = 1000_000_000) -> Path:
    zone = folder / name
    zone.mkdir(parents=True)
    (zone / "name").write_text(f"{label}\n")
    (zone / "max_energy_range_uj").write_text(f"{top}\n")
    (zone / "energy_uj").write_text(f"{value}\n")
    return zone / "energy_uj"


@pytest.fixture
def powercap(tmp_path: Path) -> dict[str, Path]:
    """Two sockets, the cores and the memory of one, the whole platform, and a package of the older kind that holds no zone."""
    folder = tmp_path / "powercap"
    named = {
        "intel-rapl:0": "package-0", "intel-rapl:0:0": "core", "intel-rapl:0:1": "dram", "intel-rapl:1": "package-1",
        "intel-rapl:2": "psys",
    }  # fmt: skip
    counters = {name: put_zone(folder, name, label, 500_000_000) for name, label in named.items()}
    (folder / "intel-rapl").mkdir()
    return counters


def test_sockets_and_their_memory_are_counted_once(powercap: dict[str, Path]) -> None:
    zones = open_zones(powercap["intel-rapl:0"].parents[1])
    assert [zone.name for zone in zones] == ["intel-rapl:0 package-0", "intel-rapl:0:1 dram", "intel-rapl:1 package-1"]


def test_a_counter_that_begins_again_at_0_goes_on(powercap: dict[str, Path]) -> None:
    (zone, *_) = open_zones(powercap["intel-rapl:0"].parents[1])
    for value in (900_000_000, 100_000_000, 100_000_000, 50_000_000):
        powercap["intel-rapl:0"].write_text(f"{value}\n")
        zone.read()
    assert zone.total_uj == 400_000_000 + 200_000_000 + 0 + 950_000_000


def test_a_counter_that_goes_away_for_a_while_is_counted_when_it_is_back(powercap: dict[str, Path]) -> None:
    (zone, *_) = open_zones(powercap["intel-rapl:0"].parents[1])
    powercap["intel-rapl:0"].write_text("not now\n")
    zone.read()
    powercap["intel-rapl:0"].write_text("600000000\n")
    zone.read()
    assert zone.total_uj == 100_000_000


def test_no_counters_no_file(tmp_path: Path) -> None:
    with measured_energy(tmp_path, start=1, device=CPU, powercap=tmp_path / "nothing"):
        pass
    assert read_energy(tmp_path, 1) == {}
    assert not (tmp_path / ENERGY_DIR).exists()


def test_a_node_writes_what_its_counters_rose_by_and_the_ledger_adds_nodes_up(
    tmp_path: Path, powercap: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy_module, "READ_EVERY_S", 0.01)
    monkeypatch.setenv("SLURMD_NODENAME", "n7")
    with measured_energy(tmp_path, start=3, device=CPU, powercap=powercap["intel-rapl:0"].parents[1]):
        powercap["intel-rapl:0"].write_text("900000000\n")
        powercap["intel-rapl:2"].write_text("990000000\n")
    assert read_energy(tmp_path, 3) == {RAPL: 400.0}
    (path,) = (tmp_path / ENERGY_DIR).iterdir()
    assert json.loads(path.read_text())["host"] == "n7", "as the file of the start has it"
    second = EnergyMeter(tmp_path, open_zones(powercap["intel-rapl:0"].parents[1]), start=3, rank=8)
    powercap["intel-rapl:1"].write_text("510000000\n")
    second.write()
    assert read_energy(tmp_path, 3) == {RAPL: 410.0}
    assert read_energy(tmp_path, 2) == {}


def test_every_flipped_bit_of_a_file_is_found(tmp_path: Path) -> None:
    found = EnergyFile(start=1, rank=0, host="n", measured_s=9.0, joules={"intel-rapl:0 package-0": 1e-05})
    write_energy_file(tmp_path, found)
    (path,) = (tmp_path / ENERGY_DIR).iterdir()
    assert unnoticed_bits(path, lambda: read_energy(tmp_path, 1)) == []
    content = json.loads(path.read_text())
    content["joules"]["intel-rapl:0 package-0"] = 5.0
    path.write_bytes(object_bytes(content))
    with pytest.raises(DamageError, match="sha256"):
        read_energy(tmp_path, 1)


def test_a_disk_that_does_not_take_it_is_named_once_and_training_goes_on(
    tmp_path: Path, powercap: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ENERGY_DIR).write_text("no folder")
    meter = EnergyMeter(tmp_path, open_zones(powercap["intel-rapl:0"].parents[1]), start=1, rank=0)
    meter.write()
    meter.write()
    assert caplog.text.count("the energy of this process is not written") == 1
