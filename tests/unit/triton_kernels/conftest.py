"""Triton's kernels run here on the CPU, by Triton's interpreter, which has to be on before Triton is imported."""

import importlib.util
import os

import pytest


@pytest.fixture(scope="session")
def triton() -> None:
    """Skip where Triton is not installed."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed: make kernels")


@pytest.fixture(autouse=True)
def interpreter(triton: None) -> None:
    """Skip where nothing can be interpreted. A module whose tests need no interpreter has a fixture of this name itself."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("triton's interpreter is off: make kernels")
