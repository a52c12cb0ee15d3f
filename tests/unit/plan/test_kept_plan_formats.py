"""What earlier versions of ``fanal plan`` wrote is read by this one: tests/golden/formats/v3/plan, where make_plan.py says how it was
made.

A test that fails here says that measured machines, calibrations and ladders of users are lost with this version. Mend the code, not
the files.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner

from fanal.errors import UserError
from launch.planning.command import plan as command
from pretrain.config.load import load_run
from pretrain.plan.calibration import read_calibration
from pretrain.plan.ladder_runs import read_ladder
from pretrain.plan.machine import figures, load_machine

KEPT = Path(__file__).parents[2] / "golden" / "formats" / "v3" / "plan"
MACHINES = {
    "cores": {
        "gpus_per_node": 2, "memory_gib": 8, "bf16_tflops": 0.2, "fp32_tflops": 0.1, "memory_gb_per_s": 20, "node_gb_per_s": 1.5,
        "network_gb_per_s": 1.5, "node_latency_us": 200, "network_latency_us": 200, "product_fraction": 0.9, "attention_fraction": 0.2,
        "flash3_fraction": 0.2, "memory_fraction": 0.4, "fp32_product_fraction": 0.8, "fp32_attention_fraction": 0.3,
        "fp32_memory_fraction": 0.5, "collective_fraction": 1, "sum_fraction": 0.5, "node_sum_latency_us": 300, "host_ms_per_layer": 4,
    },
    "gpus": {
        "gpus_per_node": 8, "memory_gib": 79.1, "bf16_tflops": 989.4, "fp32_tflops": 67, "memory_gb_per_s": 3350, "node_gb_per_s": 450,
        "network_gb_per_s": 60, "node_latency_us": 20, "network_latency_us": 30, "product_fraction": 0.6064,
        "attention_fraction": 0.3032, "flash3_fraction": 0.496, "memory_fraction": 0.7463, "fp32_product_fraction": 0.6716,
        "fp32_attention_fraction": 0.2985, "fp32_memory_fraction": 0.7761, "collective_fraction": 0.6667, "sum_fraction": 0.6222,
        "node_sum_latency_us": 25, "host_ms_per_layer": 1, "step_factor": 1.25, "watts": 700,
    },
}  # fmt: skip
FACTORS = {
    "products": 1.1205512394651234, "memory": 0.6200202008416512, "communication": 0.5349498524210685, "host": 1.0,
}  # fmt: skip
RUNGS = [
    ("01-4.67M-108M", 4_669_440, 108_093_440, 4.135642),
    ("02-6.49M-150M", 6_488_064, 150_183_936, 3.977434),
    ("03-17.7M-410M", 17_694_720, 409_665_536, 3.560062),
    ("04-29.5M-683M", 29_491_200, 682_721_280, 3.365279),
]
"""Of each run: parameters in layers, tokens, loss."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what is kept, as the current folder: its paths are relative."""
    monkeypatch.chdir(shutil.copytree(KEPT, tmp_path / "plan"))
    return Path()


@pytest.mark.parametrize("name", MACHINES)
def test_a_kept_machine_has_its_figures(name: str) -> None:
    machine = load_machine(str(KEPT / f"{name}.yaml"))
    assert {figure: kept.value for figure, kept in figures(machine)} == MACHINES[name]
    assert all(figure.source for _, figure in figures(machine))
    assert (machine.device, machine.device_name) == (
        ("cpu", "cpu") if name == "cores" else ("cuda", "NVIDIA H100 80GB HBM3")
    )


def test_a_kept_calibration_has_its_factors_and_its_runs() -> None:
    found = read_calibration(KEPT / "gpus.calibration.yaml", load_machine(str(KEPT / "gpus.yaml")))
    assert found is not None and asdict(found.factors) == FACTORS and found.date == "2026-11-30"
    assert [(one.run_dir, one.num_ranks, one.steps, one.step_s) for one in found.runs] == [
        ("runs/data", 8, 20, 3.0),
        ("runs/tensor", 8, 20, 3.75),
    ]
    assert found.worst_before == pytest.approx(4.606456610740229 / 3.75 - 1)
    assert found.worst_after == pytest.approx(3.768554641757863 / 3.75 - 1)


def test_a_kept_ladder_is_fitted_to_the_losses_of_its_runs(folder: Path) -> None:
    found = read_ladder(folder / "ladder", load_run("config.yaml"))
    assert [(one.name, one.size.parameters, one.size.tokens, one.loss) for one in found.rungs] == RUNGS
    assert not found.missing and found.what == "validation loss at the last step, mean over validation"
    done = CliRunner().invoke(command, ["config.yaml", "--ladder", "ladder", "--fit", "--json"])
    assert done.exit_code == 0 and json.loads(done.output)["loss"] == pytest.approx(2.468, abs=0.001), done.output


def test_a_kept_layout_is_laid_over_its_config(folder: Path) -> None:
    run = load_run("config.yaml", ["@layout.yaml"])
    assert (run.parallel.data_parallel_size, run.train.micro_batch_size, run.train.recompute) == (8, 4, "none")
    done = CliRunner().invoke(
        command, ["config.yaml", "@layout.yaml", "--gpus", "8", "--gpu", "gpus.yaml", "--rehearse", "0", "--json"]
    )
    tree = json.loads(done.output)
    assert tree["calibration"].startswith("Calibrated by gpus.calibration.yaml (2026-11-30): products x1.12")
    assert tree["own"]["step_s"] > 0


def test_a_field_under_another_name_would_be_noticed(folder: Path) -> None:
    for name, field in (("gpus.yaml", "memory_fraction"), ("gpus.calibration.yaml", "communication")):
        path = folder / name
        path.write_text(path.read_text().replace(f"{field}:", f"{field}_of_another_version:"))
    with pytest.raises(UserError, match="memory_fraction_of_another_version"):
        load_machine("gpus.yaml")
    with pytest.raises(UserError, match="communication_of_another_version"):
        read_calibration(folder / "gpus.calibration.yaml", load_machine("h100"))
    for file in folder.glob("runs/*/*/metrics.jsonl"):
        file.write_text(file.read_text().replace('"validation_loss"', '"loss_of_another_version"'))
    done = CliRunner().invoke(command, ["config.yaml", "--ladder", "ladder", "--fit"])
    assert done.exit_code == 2 and "loss" in done.output
