"""What holds of the operations where Triton is not installed: they import, and run on tensors without contents."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.kernels.cases import CASES, Case, launches

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def interpreter() -> None:
    """None is needed."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_forward_and_backward_start_kernels_through_launch_alone(case: Case) -> None:
    forward, backward = launches(case)
    assert forward and (backward or case.name == "AdamW")


def test_no_operation_imports_triton() -> None:
    modules = [f"fanal.kernels.triton.{path.stem}" for path in sorted((ROOT / "kernels" / "triton").glob("*.py"))]
    program = f"""
import importlib, sys
sys.modules["triton"] = None  # an import of it fails
for name in {modules}:
    importlib.import_module(name)
from bench.kernels.cases import CASES, launches
print(sum(len(side) for case in CASES for side in launches(case)))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 2 * len(CASES) - 1
