"""The energy of a run in its report, and CO2 by the factor that the user gives."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from fanal.exit_codes import FINISHED, WRONG_INPUT
from fanal.run_folder import REPORT_FILE
from pretrain.config.load import load_run
from pretrain.log.energy_file import RAPL, EnergyFile, write_energy_file
from pretrain.report.command import report
from tests.unit.history.starts import begin
from tests.unit.report.read_pages import Page


@pytest.fixture
def measured(small_run: Path, tmp_path: Path) -> Path:
    """A run of one start, of which two nodes measured 2.5 kWh together."""
    begin(load_run(small_run, [f"run_dir={tmp_path / 'run'}"]))
    for rank, joules in ((0, 3.6e6), (4, 5.4e6)):
        found = EnergyFile(
            start=1, rank=rank, host=f"n{rank}", measured_s=9.0, joules={"intel-rapl:0 package-0": joules}
        )
        write_energy_file(tmp_path / "run", found)
    return tmp_path / "run"


def words_of(run_dir: Path, *options: str) -> str:
    result = CliRunner().invoke(report, [str(run_dir), *options])
    assert result.exit_code == FINISHED, result.output
    return Page((run_dir / REPORT_FILE).read_text(encoding="utf-8")).words()


def test_co2_is_the_energy_times_the_factor_that_is_given(measured: Path) -> None:
    words = words_of(measured)
    assert f"Energy: 2.5 kWh, by {RAPL}" in words and "CO2" not in words
    assert "CO2: 0.2 kg, at 80 g a kilowatt hour, as given." in words_of(measured, "--co2-g-per-kwh", "80")
    assert "CO2: 0 kg, at 0 g" in words_of(measured, "--co2-g-per-kwh", "0")


@pytest.mark.parametrize("factor", ["-1", "nan", "inf"])
def test_a_factor_that_is_none_is_refused_with_one_that_works(measured: Path, factor: str) -> None:
    refused = CliRunner().invoke(report, [str(measured), "--co2-g-per-kwh", factor])
    assert refused.exit_code == WRONG_INPUT and not (measured / REPORT_FILE).exists()
    assert refused.output.rstrip().endswith("--co2-g-per-kwh 50 works")
    words_of(measured, "--co2-g-per-kwh", "50")
