"""The stages of ``make gpu`` that train on several ranks, here on a CPU over gloo: on a GPU only the GPU is new."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.gpu.machine import machine_like
from bench.gpu.report import PASSED
from bench.gpu.runner import run_stage
from bench.gpu.setting import Setting
from bench.gpu.stages import STAGES
from pretrain.plan.machine import figures, load_machine
from pretrain.plan.measured_machine import Measured

BY_NAME = {stage.name: stage for stage in STAGES}
FIGURES = 20
"""Of a CPU's machine file, whose power is not known."""
CPU = Setting(device="cpu", tiny=True)


@pytest.mark.parametrize("name", ["resume", "layouts"])
def test_the_tests_of_gpus_pass_on_a_cpu_each_a_row_of_the_report(name: str, tmp_path: Path) -> None:
    result = run_stage(BY_NAME[name], replace(CPU, folder=tmp_path), limit_s=900)
    assert result.status == PASSED, "\n".join(result.last_lines)
    rows = [finding["cells"] for finding in result.findings]
    assert len(rows) >= 5 and {row["outcome"] for row in rows} == {"passed"}


def test_the_machine_is_measured_and_its_file_is_one_for_plans(tmp_path: Path) -> None:
    result = run_stage(BY_NAME["machine"], replace(CPU, folder=tmp_path), limit_s=300)
    assert result.status == PASSED, "\n".join(result.last_lines)
    rows = [finding["cells"] for finding in result.findings if finding["kind"] == "row"]
    machine = load_machine(str(tmp_path / "machine.yaml"))
    assert {row["figure"]: float(row["value"]) for row in rows} == pytest.approx(
        {name: figure.value for name, figure in figures(machine)}
    )
    assert len(rows) == FIGURES and machine.device == "cpu"


def test_a_known_gpu_keeps_the_peaks_of_its_data_sheet() -> None:
    for device, memory, name in (
        ("NVIDIA H100 80GB HBM3", 79.1, "h100"),
        ("NVIDIA A100-SXM4-40GB", 39.4, "a100-40"),
        ("NVIDIA A100-SXM4-80GB", 79.2, "a100-80"),
        ("NVIDIA L4", 22.0, None),
    ):
        measured = Measured(
            device="cuda", device_name=device, precision="bf16", ranks=1, threads=1, memory_gib=memory, bf16_tflops=1, fp32_tflops=1,
            bf16_product_tflops=1, fp32_product_tflops=1, bf16_attention_tflops=1, fp32_attention_tflops=1, copy_gb_per_s=1,
            bf16_elementwise_gb_per_s=1, fp32_elementwise_gb_per_s=1, message_gb_per_s=1, latency_us=1, sum_gb_per_s=1,
            sum_latency_us=1, host_ms_per_layer=1,
        )  # fmt: skip
        assert machine_like(measured) == name
