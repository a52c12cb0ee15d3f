"""A measured machine: which figures it takes from where, that its file is read back, and that a wrong figure shows."""

import datetime
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from fanal.errors import UserError
from launch.chain.blame import PREFLIGHT_RESULT
from launch.preflight.machine_file import check_machine_file, exchange_of, measure_machine
from launch.sites.site import load_site
from pretrain.config.load import load_run
from pretrain.plan import measure as measuring
from pretrain.plan.calibration import Factors, calibrated
from pretrain.plan.estimate import estimate_step, on_device_of
from pretrain.plan.machine import MachineConfig, assumed_figures, figures, load_machine
from pretrain.plan.measured_machine import Measured, machine_of, write_machine
from pretrain.plan.shapes import shapes_of
from pretrain.plan.times import Links
from pretrain.plan.work import micro_batch_work

CORES = Measured(
    device="cpu", device_name="cpu", precision="fp32", ranks=2, threads=1, memory_gib=8, bf16_tflops=0.2, fp32_tflops=0.1,
    bf16_product_tflops=0.15, fp32_product_tflops=0.08, bf16_attention_tflops=0.02, fp32_attention_tflops=0.03, copy_gb_per_s=20,
    bf16_elementwise_gb_per_s=6, fp32_elementwise_gb_per_s=10, message_gb_per_s=1.5, latency_us=200, sum_gb_per_s=0.5,
    sum_latency_us=500, host_ms_per_layer=4,
)  # fmt: skip
H100 = replace(
    CORES, device="cuda", device_name="NVIDIA H100 80GB HBM3", precision="bf16", ranks=4, memory_gib=79.1, bf16_tflops=700,
    fp32_tflops=50, bf16_product_tflops=600, fp32_product_tflops=40, bf16_attention_tflops=300, fp32_attention_tflops=20,
    copy_gb_per_s=2900, bf16_elementwise_gb_per_s=2500, fp32_elementwise_gb_per_s=2600, message_gb_per_s=300, sum_gb_per_s=280,
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
    slower = estimate_step(run, made(replace(CORES, fp32_product_tflops=0.04)), 2).times
    assert slower.products == pytest.approx(2 * times.products), "a wrong rate shows"


def test_sums_and_gathers_are_planned_as_they_were_measured_whichever_is_faster() -> None:
    run = load_run("configs/tiny.yaml", ["parallel.pipeline_model_parallel_size=1"])
    for measured in (CORES, replace(CORES, sum_gb_per_s=3), H100):
        link = Links(made(measured, "h100" if measured is H100 else None), shapes_of(run, 2)).tensor
        gather = 0.5e6 / (measured.message_gb_per_s * 1e9) + measured.latency_us * 1e-6
        scatter = 0.5e6 / (measured.sum_gb_per_s * 1e9) + measured.sum_latency_us * 1e-6
        assert (link.gather_s(1e6, 2), link.sum_s(1e6, 2)) == pytest.approx((gather, scatter), rel=1e-3)


def test_attention_products_and_norms_have_rates_of_their_own_in_each_precision() -> None:
    overrides = (
        "parallel.tensor_model_parallel_size=1",
        "parallel.pipeline_model_parallel_size=1",
        "parallel.sequence_parallel=false",
    )
    machine = made(CORES)

    def rates(precision: str, at: MachineConfig) -> tuple[float, ...]:
        run = on_device_of(load_run("configs/tiny.yaml", [*overrides, f"train.precision={precision}"]), at)
        shapes, times = shapes_of(run, 2), estimate_step(run, at, 2).times
        work = micro_batch_work(run, shapes, 0)
        return (
            shapes.micro_batches * work.product_flops / times.products / 1e12,
            shapes.micro_batches * work.attention_flops / times.attention / 1e12,
            shapes.micro_batches * work.memory_bytes / times.memory / 1e9,
        )

    assert rates("fp32", machine) == pytest.approx((0.08, 0.03, 10), rel=1e-3)
    assert rates("bf16", machine) == pytest.approx((0.15, 0.02, 6), rel=1e-3)
    wrong = replace(machine, fp32_attention_fraction=machine.attention_fraction)
    assert rates("fp32", wrong)[1] == pytest.approx(0.01, rel=1e-3), "a share of the other precision's peak shows"
    old = replace(machine, fp32_product_fraction=None, fp32_attention_fraction=None, fp32_memory_fraction=None)
    assert rates("fp32", old) == pytest.approx((0.075, 0.01, 6), rel=1e-3), "one share for both, as files had it before"
    assert rates("bf16", old) == rates("bf16", machine)


def test_a_data_sheet_keeps_its_peaks_and_rates_become_fractions_of_them() -> None:
    machine, sheet = made(H100, "h100"), load_machine("h100")
    for name in ("bf16_tflops", "fp32_tflops", "memory_gb_per_s", "node_gb_per_s", "network_gb_per_s", "watts"):
        assert getattr(machine, name) == getattr(sheet, name)
    assert machine.product_fraction.value == pytest.approx(600 / 989.4, rel=1e-3)
    assert machine.collective_fraction.value == pytest.approx(300 / 450, rel=1e-3)
    assert machine.gpus_per_node.value == 4
    assert machine.product_fraction.source.startswith("measured, 2026-11-30, node1: ")
    assert assumed_figures(machine) == ["network_latency_us", "flash3_fraction"]
    over = made(replace(H100, bf16_tflops=1000, bf16_product_tflops=995), "h100")
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


def test_a_file_from_before_sums_were_measured_is_planned_as_it_was(tmp_path: Path) -> None:
    """A file of today without its newest figures is one of yesterday: sums are as gathers, fp32 has the one share there was."""
    newest = (
        "fp32_product_fraction",
        "fp32_attention_fraction",
        "fp32_memory_fraction",
        "sum_fraction",
        "node_sum_latency_us",
    )
    write_machine(tmp_path / "mine.yaml", made(CORES))
    tree = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    for name in newest:
        assert tree.pop(name)["value"] > 0
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(tree))
    old = load_machine(str(tmp_path / "old.yaml"))
    assert all(getattr(old, name) is None for name in newest)
    links = Links(old, shapes_of(load_run("configs/tiny.yaml", ["parallel.pipeline_model_parallel_size=1"]), 2))
    assert links.tensor.sum_s(1e6, 2) == links.tensor.gather_s(1e6, 2) == pytest.approx(0.5e6 / 1.5e9 + 200e-6)
    assert calibrated(old, Factors(communication=2)).sum_fraction is None, "a factor makes no figure"


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
