"""torch's varlen_attn: windows and documents by a stand-in of its documentation, shapes and backward by torch itself."""

import inspect

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention.varlen import varlen_attn

from fanal.kernels import varlen_attention
from fanal.kernels.attention import causal_attention
from fanal.kernels.reference import causal_grouped_attention
from tests.unit.kernels import flash_stand_ins
from tests.unit.kernels.test_document_attention import errors, inputs, run

STARTS = [0, 1, 2, 30, 33, 66, 80, 98, 99]  # s 33, b 3


def arguments(function) -> list[tuple[str, object]]:
    return [(parameter.name, parameter.kind) for parameter in inspect.signature(function).parameters.values()]


def test_the_stand_in_has_the_arguments_of_this_torch() -> None:
    of_torch = (flash_stand_ins.varlen_attn, flash_stand_ins.varlen_attn_of_2_11)
    assert arguments(varlen_attn) in [arguments(function) for function in of_torch]


@pytest.mark.parametrize("stand_in", [flash_stand_ins.varlen_attn, flash_stand_ins.varlen_attn_of_2_11])
@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("window", [None, 1, 2, 7, 32])
def test_windows_and_documents_equal_the_definition_forward_and_backward(
    window: int | None, documents: bool, stand_in, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(varlen_attention, "varlen_attn", stand_in)
    tensors = inputs(33, 3, torch.float32)
    starts = torch.tensor(STARTS, dtype=torch.int32) if documents else None
    options = {"document_starts": starts, "window": window}
    found = run(lambda q, k, v: causal_attention(q, k, v, "varlen", **options), *tensors)
    expected = run(lambda q, k, v: causal_grouped_attention(q, k, v, **options), *(t.double() for t in tensors))
    if window == 1:  # query and key have no influence: nothing to be relative to
        found, expected = [found[0], found[3]], [expected[0], expected[3]]
    assert max(errors(found, expected)) < 3e-6


@pytest.mark.parametrize("documents", [False, True])
def test_torch_itself_takes_the_call_on_fake_tensors_forward_and_backward(documents: bool) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        query = torch.empty(64, 2, 8, 32, dtype=torch.bfloat16, requires_grad=True)
        key, value = (torch.empty(64, 2, 2, 32, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
        starts = torch.empty(5, dtype=torch.int32) if documents else None
        output = causal_attention(query, key, value, "varlen", document_starts=starts, window=16)
        assert output.shape == (64, 2, 8 * 32) and output.dtype == torch.bfloat16
        output.sum().backward()
        assert query.grad is not None and query.grad.shape == query.shape
        assert key.grad is not None and key.grad.shape == key.shape


def test_torch_asks_for_causal_kernels_and_for_the_window_by_its_own_rule() -> None:
    asked: list[tuple[object, ...]] = []

    class Recording(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if "_varlen_attn" in str(function):
                asked.append((args[7], list(args[9])))  # is_causal, window_size
            return function(*args, **(kwargs or {}))

    with FakeTensorMode(allow_non_fake_inputs=True), Recording():
        tensors = [torch.empty(64, 1, heads, 32, dtype=torch.bfloat16) for heads in (8, 2, 2)]
        causal_attention(*tensors, "varlen")
        causal_attention(*tensors, "varlen", window=16)
    assert asked == [(True, [-1, 0]), (False, [15, 0])]
