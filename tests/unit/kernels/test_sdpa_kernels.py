"""Which of torch's kernels may run on a GPU: never math. What a CPU can show of it: the table, and that torch raises."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from fanal.kernels import sdpa_cuda_attention
from fanal.kernels.reference import causal_grouped_attention
from fanal.kernels.sdpa_cuda_attention import kernels_for, sdpa_on_cuda
from tests.unit.kernels.test_document_attention import errors, inputs, run

FLASH, CUDNN, EFFICIENT = SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION


@pytest.mark.parametrize(
    ("dtype", "head_size", "is_grouped", "is_deterministic", "kernels"),
    [
        (torch.bfloat16, 128, True, False, [FLASH, CUDNN]),
        (torch.bfloat16, 128, False, False, [FLASH, CUDNN, EFFICIENT]),
        (torch.bfloat16, 128, True, True, [FLASH]),
        (torch.bfloat16, 320, True, False, [EFFICIENT]),
        (torch.float32, 128, True, False, [EFFICIENT]),
        (torch.float32, 128, False, True, [EFFICIENT]),
    ],
)
def test_kernels_by_type_and_head_size(
    dtype: torch.dtype, head_size: int, is_grouped: bool, is_deterministic: bool, kernels: list[SDPBackend]
) -> None:
    assert kernels_for(dtype, head_size, is_grouped=is_grouped, is_deterministic=is_deterministic) == kernels


def test_torch_raises_where_no_kernel_that_is_allowed_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sdpa_cuda_attention, "pinned", lambda kernels, device: sdpa_kernel(list(kernels))
    )  # as on a GPU
    query, key, value, _ = inputs(8, 1, torch.float32)
    with pytest.raises(RuntimeError, match=r"No available kernel|No viable backend"):
        sdpa_on_cuda(query, key, value, None, None, None, None)  # a CPU has flash and math alone
    assert torch.backends.cuda.math_sdp_enabled(), "the flags of the process are as before"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_repeated_keys_and_values_give_what_groups_give(dtype: torch.dtype) -> None:
    tensors = inputs(33, 2, dtype)
    found = run(lambda q, k, v: sdpa_on_cuda(q, k, v, None, None, None, None).flatten(2), *tensors)
    expected = run(causal_grouped_attention, *(tensor.double() for tensor in tensors))
    bound = 3e-6 if dtype is torch.float32 else 2e-2
    assert max(errors(found, expected)) < bound
