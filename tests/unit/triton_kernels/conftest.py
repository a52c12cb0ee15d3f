"""Triton's kernels run here on the CPU, by Triton's interpreter, which has to be on before Triton is imported."""

import importlib.util
import os

import pytest


def obstacle() -> str:
    """Why the interpreter cannot run here; empty if it can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed: make kernels"
    return "" if os.environ.get("TRITON_INTERPRET") == "1" else "triton's interpreter is off: make kernels"


@pytest.fixture(autouse=True)
def interpreter(request: pytest.FixtureRequest) -> None:
    """Skip what needs the interpreter where there is none."""
    if "without_triton" not in request.keywords and (reason := obstacle()):
        pytest.skip(reason)
