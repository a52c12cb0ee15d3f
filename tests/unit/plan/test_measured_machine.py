"""A measured machine: which figures it takes from where, that its file is read back, and that a wrong figure shows."""

import datetime
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fanal.errors import UserError
from launch.chain.blame import PREFLIGHT_RESULT
from launch.preflight.machine_file import check_machine_file, exchange_of, measure_machine
from launch.sites.site import load_site
from pretrain.config.load import load_run
from pretrain.plan import measure as measuring
from pretrain.plan.estimate import estimate_step, on_device_of
from pretrain.plan.machine import MachineConfig, assumed_figures, figures, load_machine
from pretrain.plan.measured_machine import Measured, machine_of, write_machine
from pretrain.plan.shapes import shapes_of
from pretrain.plan.work import micro_batch_work

CORES = Measured(
    device="cpu", device_name="cpu", precision="fp32", ranks=2, threads=1, memory_gib=8, bf16_tflops=0.2, fp32_tflops=0.1,
    product_tflops=0.08, attention_tflops=0.03, copy_gb_per_s=20, elementwise_gb_per_s=10, message_gb_per_s=1.5, latency_us=200,
    host_ms_per_layer=4,
)  # fmt: skip
H100 = replace(
    CORES, device="cuda", device_name="NVIDIA H100 80GB HBM3", precision="bf16", ranks=4, memory_gib=79.1, bf16_tflops=700,
    fp32_tflops=50, product_tflops=600, attention_tflops=300, copy_gb_per_s=2900, elementwise_gb_per_s=2500, message_gb_per_s=300,
)  # fmt: skip
DATE = datetime.date(2026, 11, 30)


def made(measured: Measured, base: str | None = None, **options: Any) -> MachineConfig:
    return machine_of(measured, load_machine(base) if base else None, node="node1", date=DATE, **options)


def test_a_step_takes_its_operations_over_the_measured_rates() -> None:
    machine = made(CORES)
    run = on_device_of(load_run("configs/tiny.yaml", ["parallel.tensor_model_parallel_size=1", "parallel.pipeline_model_parallel_size=1",
                                                      "parallel.sequence_parallel=false"]), machine)  # fmt: skip
    shapes, times = shapes_of(run, 2), estimate_step(run, machine, 2).times
    work = micro_batch_work(run, shapes, 0)
    assert times.products == pytest.approx(shapes.micro_batches * work.product_flops / 0.08e12)
    assert times.attention == pytest.approx(shapes.micro_batches * work.attention_flops / 0.03e12)
    assert times.memory == pytest.approx(shapes.micro_batches * work.memory_bytes / 10e9)
    assert times.host == pytest.approx(shapes.micro_batches * work.layers * 4e-3), "on a core nothing goes on beside it"
    slower = estimate_step(run, made(replace(CORES, product_tflops=0.04)), 2).times
    assert slower.products == pytest.approx(2 * times.products), "a wrong rate shows"


def test_a_data_sheet_keeps_its_peaks_and_rates_become_fractions_of_them() -> None:
    machine, sheet = made(H100, "h100"), load_machine("h100")
    for name in ("bf16_tflops", "fp32_tflops", "memory_gb_per_s", "node_gb_per_s", "network_gb_per_s", "watts"):
        assert getattr(machine, name) == getattr(sheet, name)
    assert machine.product_fraction.value == pytest.approx(600 / 989.4, rel=1e-3)
    assert machine.collective_fraction.value == pytest.approx(300 / 450, rel=1e-3)
    assert machine.gpus_per_node.value == 4
    assert machine.product_fraction.source.startswith("measured, 2026-11-30, node1: ")
    assert assumed_figures(machine) == ["network_latency_us", "flash3_fraction"]
    over = made(replace(H100, bf16_tflops=1000, product_tflops=995), "h100")
    assert (over.bf16_tflops.value, over.product_fraction.value) == (1000, 0.995), (
        "a peak below what was measured is none"
    )


def test_the_exchange_between_nodes_is_planned_as_it_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = tmp_path / PREFLIGHT_RESULT
    result.write_text(json.dumps({"nodes": [{"exchange_gb_per_s": [20.0, 22.0]}, {"exchange_gb_per_s": [24.0]}]}))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert exchange_of(result) is None, "a result of an earlier job is not this node's"
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    machine = made(H100, "h100", exchange_gb_per_s=exchange_of(result))
    assert machine.network_gb_per_s.value * machine.collective_fraction.value == pytest.approx(22, rel=1e-3)
    assert machine.network_gb_per_s.source.startswith("measured")


@pytest.mark.parametrize("machine", [made(CORES), made(H100, "h100")], ids=["cores", "h100"])
def test_a_file_is_read_back_as_it_was_written(machine: MachineConfig, tmp_path: Path) -> None:
    write_machine(tmp_path / "mine.yaml", machine)
    assert load_machine(str(tmp_path / "mine.yaml")) == machine
    assert all(figure.value > 0 for _, figure in figures(machine))


def test_a_gpu_site_is_measured_in_its_jobs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    site, target = load_site("jean-zay-h100"), tmp_path / "here.yaml"
    with pytest.raises(UserError, match="--site local it measures the cores"):
        check_machine_file(target, site, "jean-zay-h100")
    check_machine_file(target, load_site("local"), "local")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    check_machine_file(target, site, "jean-zay-h100")
    target.write_text("somebody's")
    with pytest.raises(
        UserError, match=r"--write-machine .* must not be there yet; --write-machine .*here-2\.yaml works"
    ):
        check_machine_file(target, site, "jean-zay-h100")


def test_preflight_writes_a_file_that_plans_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    asked: list[dict[str, str]] = []

    def measure(**options: str) -> Measured:
        asked.append(options)
        return CORES if options["device"] == "cpu" else H100

    monkeypatch.setattr(measuring, "measure", measure)
    said = measure_machine(tmp_path / "cores.yaml", load_site("local"), tmp_path, precision="fp32")
    assert "cores.yaml has the figures of 2 ranks of this node" in said
    assert load_machine(str(tmp_path / "cores.yaml")).device == "cpu"
    measure_machine(tmp_path / "gpus.yaml", load_site("jean-zay-h100"), tmp_path, precision="bf16")
    assert load_machine(str(tmp_path / "gpus.yaml")).bf16_tflops == load_machine("h100").bf16_tflops
    assert asked == [{"device": "cpu", "precision": "fp32"}, {"device": "cuda", "precision": "bf16"}]
