"""Two ranks of this machine measure themselves, and a plan is made of what they found."""

import datetime
from pathlib import Path

import pytest

from fanal.host_cores import host_cores
from pretrain.config.load import load_run
from pretrain.plan.machine import assumed_figures, load_machine
from pretrain.plan.measure import TINY, measure
from pretrain.plan.measured_machine import machine_of, write_machine
from pretrain.plan.plan import plan


def test_a_machine_is_measured_written_and_planned_with(tmp_path: Path) -> None:
    measured = measure(device="cpu", precision="fp32", sizes=TINY)
    assert (measured.ranks, measured.threads, measured.device_name) == (host_cores(), 1, "cpu")
    assert (
        1e-4 < measured.bf16_product_tflops < 10
        and 1e-4 < measured.fp32_product_tflops < 10
        and 0.1 < measured.copy_gb_per_s < 1000
    )
    assert 1e-4 < measured.sum_gb_per_s < 1000 and 1 <= measured.sum_latency_us < 1e6
    assert 1 <= measured.latency_us < 1e6 and 0.05 < measured.host_ms_per_layer < 1e3
    machine = machine_of(measured, None, node="here", date=datetime.date(2026, 11, 30))
    write_machine(tmp_path / "here.yaml", machine)
    machine = load_machine(str(tmp_path / "here.yaml"))
    assert assumed_figures(machine) == ["network_gb_per_s", "network_latency_us"]
    run = load_run("configs/tiny.yaml", ["parallel.tensor_model_parallel_size=1", "parallel.pipeline_model_parallel_size=1",
                                         "parallel.sequence_parallel=false"])  # fmt: skip
    made = plan("configs/tiny.yaml", run, machine, "here.yaml", num_gpus=2, top=3, rehearsals=0)
    assert made.best[0].run.parallel.device == "cpu"
    own = made.own
    assert own is not None and machine.fp32_product_fraction is not None
    rate = machine.fp32_tflops.value * machine.fp32_product_fraction.value
    assert rate == pytest.approx(measured.fp32_product_tflops, rel=0.01), "products are planned as they were measured"
