"""The stages of ``make gpu`` that train on several ranks, here on a CPU over gloo: on a GPU only the GPU is new."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.gpu.report import PASSED
from bench.gpu.runner import run_stage
from bench.gpu.setting import Setting
from bench.gpu.stages import STAGES

BY_NAME = {stage.name: stage for stage in STAGES}
CPU = Setting(device="cpu", tiny=True)


@pytest.mark.parametrize("name", ["resume", "layouts"])
def test_the_tests_of_gpus_pass_on_a_cpu_each_a_row_of_the_report(name: str, tmp_path: Path) -> None:
    result = run_stage(BY_NAME[name], replace(CPU, folder=tmp_path), limit_s=900)
    assert result.status == PASSED, "\n".join(result.last_lines)
    rows = [finding["cells"] for finding in result.findings]
    assert len(rows) >= 5 and {row["outcome"] for row in rows} == {"passed"}
