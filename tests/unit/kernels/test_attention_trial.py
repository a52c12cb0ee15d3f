"""The trial of an attention backend: a right one passes, a wrong one and one that fails are named. On a CPU, where it is the same."""

import dataclasses

import pytest
import torch

from fanal.errors import UserError
from fanal.kernels import attention_choice, attention_trial
from fanal.kernels.attention_backend import Backend, Situation, nothing
from fanal.kernels.attention_choice import select_attention_backend
from fanal.kernels.reference import causal_grouped_attention
from fanal.kernels.sdpa_attention import SDPA

CPU = torch.device("cpu")
PLAIN = Situation(device_type="cpu", dtype=torch.bfloat16, head_size=64, num_heads=4, num_groups=2)
WHOLE = Situation(
    device_type="cpu",
    dtype=torch.bfloat16,
    head_size=64,
    num_heads=4,
    num_groups=2,
    documents=True,
    window=4096,
    soft_cap=5.0,
)
FEWER = dataclasses.replace(WHOLE, fewer_queries=True)


def backend_of(call) -> Backend:
    return Backend(name="made up", obstacles=nothing, call=call)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("situation", [PLAIN, WHOLE, FEWER])
def test_a_right_backend_passes(situation: Situation, dtype: torch.dtype) -> None:
    assert attention_trial.failure(SDPA, dataclasses.replace(situation, dtype=dtype), CPU) is None


def ignores_documents(query, key, value, scale, starts, window, cap):
    return causal_grouped_attention(query, key, value, scale, None, window, cap)


def window_too_long(query, key, value, scale, starts, window, cap):
    return causal_grouped_attention(query, key, value, scale, starts, window and window + 1, cap)


def ignores_the_cap(query, key, value, scale, starts, window, cap):
    return causal_grouped_attention(query, key, value, scale, starts, window, None)


def interleaves_groups(query, key, value, scale, starts, window, cap):
    repeats = query.shape[2] // key.shape[2]
    return causal_grouped_attention(
        query, key.repeat(1, 1, repeats, 1), value.repeat(1, 1, repeats, 1), scale, starts, window, cap
    )


def no_gradient_for_keys(query, key, value, scale, starts, window, cap):
    return causal_grouped_attention(query, 0 * key + key.detach(), value, scale, starts, window, cap)


def not_a_number(query, key, value, scale, starts, window, cap):
    return causal_grouped_attention(query, key, value * float("nan"), scale, starts, window, cap)


def aligns_to_the_start(query, key, value, scale, starts, window, cap):
    """As flash-attn before 2.1, and is_causal of torch's scaled_dot_product_attention."""
    first = torch.zeros_like(key[len(query) :, :, :1]).repeat(1, 1, query.shape[2], 1)
    whole = torch.cat([query, first])
    return causal_grouped_attention(whole, key, value, scale, starts, window, cap)[: len(query)]


def counts_queries_from_the_row_before(query, key, value, scale, starts, window, cap):
    off = starts.clone()
    off[2] += len(query) < len(key)
    return causal_grouped_attention(query, key, value, scale, off, window, cap)


def leaves_keys_without_queries(query, key, value, scale, starts, window, cap):
    """As a kernel that writes no gradient where no query comes by, into memory that the trial has filled before."""

    class Unwritten(torch.autograd.Function):
        @staticmethod
        def forward(ctx, tensor):
            return tensor.view_as(tensor)

        @staticmethod
        def backward(ctx, gradient):
            return gradient.masked_fill(gradient == 0, float("nan")) if len(query) < len(key) else gradient

    return causal_grouped_attention(query, Unwritten.apply(key), value, scale, starts, window, cap)


@pytest.mark.parametrize(
    ("call", "where"),
    [
        (aligns_to_the_start, "(output, fewer queries than keys)"),
        (counts_queries_from_the_row_before, ", fewer queries than keys)"),
        (leaves_keys_without_queries, "(gradient of the key, fewer queries than keys)"),
    ],
)
def test_a_backend_that_is_wrong_with_fewer_queries_alone_is_named_where_a_model_has_them(call, where: str) -> None:
    plain = dataclasses.replace(WHOLE, window=None, soft_cap=None)
    assert attention_trial.failure(backend_of(call), plain, CPU) is None
    found = attention_trial.failure(backend_of(call), dataclasses.replace(plain, fewer_queries=True), CPU)
    assert found is not None and "off the definition by" in found and where in found


@pytest.mark.parametrize(
    ("call", "where"),
    [
        (ignores_documents, "(output)"),
        (window_too_long, "("),
        (ignores_the_cap, "("),
        (interleaves_groups, "(output)"),
        (no_gradient_for_keys, "(gradient of the key)"),
        (not_a_number, "(output)"),
    ],
)
def test_a_wrong_backend_is_named_with_what_is_wrong(call, where: str) -> None:
    found = attention_trial.failure(backend_of(call), WHOLE, CPU)
    assert found is not None and "off the definition by" in found and where in found


def test_a_backend_that_fails_is_named_with_its_words() -> None:
    def fails(*_):
        raise NotImplementedError("no kernel image\nis available")

    found = attention_trial.failure(backend_of(fails), PLAIN, CPU)
    assert found == "its trial on this device ended with NotImplementedError: no kernel image is available"


def test_auto_goes_on_to_the_next_and_a_pin_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def failing(backend: Backend, situation: Situation, device: torch.device) -> str | None:
        tried.append(backend.name)
        return "its trial failed" if backend.name == "sdpa" else None

    monkeypatch.setattr(attention_choice.attention_trial, "failure", failing)
    on_gpu = Situation(
        device_type="cuda", dtype=torch.bfloat16, head_size=64, num_heads=4, num_groups=2, capability=(8, 0)
    )
    choice = select_attention_backend("auto", on_gpu, torch.device("cuda", 0))
    assert choice.name == "varlen" and choice.passed_over["sdpa"] == "its trial failed"
    assert tried == ["sdpa", "varlen"], "what has obstacles is not tried"
    with pytest.raises(
        UserError, match=r"attention backend 'sdpa' cannot run .* sdpa: its trial failed. 'auto' takes what can"
    ):
        select_attention_backend("sdpa", on_gpu, torch.device("cuda", 0))


def test_a_trial_leaves_the_random_numbers_of_the_run_alone() -> None:
    before = torch.get_rng_state()
    attention_trial.failure(SDPA, PLAIN, CPU)
    assert torch.equal(torch.get_rng_state(), before)
