"""Machines are data: every figure has a source, and a wrong one is refused with what works."""

from pathlib import Path

import pytest
import yaml

from fanal.errors import UserError
from pretrain.model.flops import PEAK_TFLOPS
from pretrain.plan.machine import MACHINES, FigureConfig, assumed_figures, figures, known_machines, load_machine


@pytest.mark.parametrize("name", known_machines())
def test_every_figure_has_a_source(name: str) -> None:
    machine = load_machine(name)
    found = figures(machine)
    assert len(found) == 17
    assert all(len(figure.source) > 20 for _, figure in found)
    assert "product_fraction" in assumed_figures(machine)


def test_the_peaks_are_those_of_the_log() -> None:
    for name, device in (
        ("h100", "NVIDIA H100"),
        ("h200", "NVIDIA H200"),
        ("gh200", "NVIDIA GH200"),
        ("a100-80", "NVIDIA A100"),
    ):
        assert load_machine(name).bf16_tflops.value == PEAK_TFLOPS[device]


@pytest.mark.parametrize("name", ["v900", "../machines/h100", ""])
def test_an_unknown_gpu_lists_those_that_are_known(name: str) -> None:
    with pytest.raises(UserError, match="known are a100-40, a100-80, gh200, h100, h200, mi250x"):
        load_machine(name)


def test_a_file_of_ones_own_works_and_its_wrong_figure_is_named(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    text = (MACHINES / "h100.yaml").read_text()
    mine.write_text(text)
    assert load_machine(str(mine)) == load_machine("h100")
    mine.write_text(text.replace("product_fraction: {value: 0.7", "product_fraction: {value: 1.7"))
    with pytest.raises(UserError, match=r"product_fraction.value \(1.7\) must be from 1e-09 to 1; 1 works"):
        load_machine(str(mine))
    for figure, wrong, works in (
        ("memory_gib", "1e300", "1"),
        ("watts", "nan", "1"),
        ("gpus_per_node", "1e9", "8"),
        ("step_factor", "1e-9", "1"),
        ("step_factor", "1e9", "1"),
        ("gpus_per_node", "2.5", "8"),
    ):
        absurd = yaml.safe_load(text)
        absurd[figure]["value"] = float(wrong)
        mine.write_text(yaml.safe_dump(absurd))
        with pytest.raises(UserError, match=rf"{figure}.value .* must be .*; {works} works"):
            load_machine(str(mine))
    mine.write_text(text.replace("watts:", "wats:"))
    with pytest.raises(UserError, match="wats"):
        load_machine(str(mine))
    mine.write_text("\n".join(line for line in text.splitlines() if not line.startswith("memory_fraction")))
    with pytest.raises(UserError, match="memory_fraction"):
        load_machine(str(mine))
    mine.write_text("\n".join(line for line in text.splitlines() if not line.startswith("watts")))
    assert load_machine(str(mine)).watts is None, "of a machine whose power nobody knows, the energy is not known"
    mine.write_text(text + "device: tpu\n")
    with pytest.raises(UserError, match=r"device \(tpu\) must be cuda or cpu; cuda works"):
        load_machine(str(mine))
    wrong = yaml.safe_load(text)
    wrong["memory_gib"]["value"] = "x"
    mine.write_text(yaml.safe_dump(wrong))
    with pytest.raises(UserError, match=rf"^{mine}: memory_gib\.value: Value 'x'"):
        load_machine(str(mine))
    folder = tmp_path / "folder.yaml"
    folder.mkdir()
    with pytest.raises(
        UserError, match=r"--gpu \(\S+folder\.yaml\) must be a YAML file, and it is a folder; known are a100-40"
    ):
        load_machine(str(folder))


def test_a_figure_without_its_source_is_told_one_that_works(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    tree = yaml.safe_load((MACHINES / "h100.yaml").read_text())
    mine.write_text(yaml.safe_dump(tree | {"step_factor": 1.25}))
    with pytest.raises(
        UserError, match=r"step_factor \(1.25\) must be a mapping such as {value: 1.0, source: measured}"
    ):
        load_machine(str(mine))
    mine.write_text(yaml.safe_dump(tree | {"step_factor": {"value": 1.0, "source": "measured"}}))
    assert load_machine(str(mine)).step_factor == FigureConfig(value=1.0, source="measured")
