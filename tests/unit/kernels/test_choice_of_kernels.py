"""Which implementation an operation gets, and what is said of it."""

import importlib.util

import pytest
import torch

from fanal.errors import UserError
from fanal.kernels.choice import LARGEST, Choice, choose, triton_importable

BF16 = torch.bfloat16


@pytest.mark.parametrize("operation", LARGEST)
def test_auto_takes_triton_on_cuda_where_it_is_importable(operation: str) -> None:
    found = choose("auto", operation, "cuda", BF16, importable=True)
    assert found == Choice("triton", "cuda, torch.bfloat16, triton is importable")


@pytest.mark.parametrize(
    ("device_type", "dtype", "size", "importable", "reason"),
    [
        ("cpu", BF16, 64, True, "the device is 'cpu'"),
        ("cuda", BF16, 64, False, "triton is not installed"),
        ("cuda", torch.float64, 64, True, "the dtype is torch.float64"),
        ("cuda", BF16, 320, True, "the size is 320, and attention takes up to 256"),
        ("cpu", BF16, 64, False, "the device is 'cpu'; triton is not installed"),
    ],
)
def test_auto_takes_torch_elsewhere_and_says_why_and_a_request_for_triton_is_refused(
    device_type: str, dtype: torch.dtype, size: int, importable: bool, reason: str
) -> None:
    situation = ("attention", device_type, dtype, size)
    assert choose("auto", *situation, importable=importable) == Choice("torch", reason)
    with pytest.raises(UserError, match=r"'torch' \(or 'auto'\) works here") as refusal:
        choose("triton", *situation, importable=importable)
    assert reason in str(refusal.value) and len(str(refusal.value).splitlines()) == 1


def test_what_is_requested_is_taken_where_it_can_run() -> None:
    assert choose("torch", "swiglu", "cuda", BF16, importable=True) == Choice("torch", "as requested")
    assert choose("triton", "swiglu", "cuda", BF16, importable=True) == Choice("triton", "as requested")


def test_whether_triton_is_importable_is_looked_up() -> None:
    assert triton_importable() == (importlib.util.find_spec("triton") is not None)
    expected = "triton" if triton_importable() else "torch"
    assert choose("auto", "rotary", "cuda", BF16).backend == expected


def test_unknown_requests_and_operations_are_refused() -> None:
    with pytest.raises(UserError, match="unknown choice of kernels 'cuda' for rotary; known: auto, triton, torch"):
        choose("cuda", "rotary", "cuda", BF16)
    with pytest.raises(UserError, match="unknown operation 'rope' in kernels; known: rms_norm,"):
        choose("auto", "rope", "cuda", BF16)
