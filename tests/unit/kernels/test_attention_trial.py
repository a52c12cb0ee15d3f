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


def backend_of(call) -> Backend:
    return Backend(name="made up", obstacles=nothing, call=call)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("situation", [PLAIN, WHOLE])
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
