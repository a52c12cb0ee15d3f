"""Which token comes next."""

from typing import Any

import pytest
import torch

from pretrain.model.sampling import Sampler, Sampling, likely

LOGITS = torch.tensor([0.4, 0.1, 0.2, 0.3]).log()


def test_greedy_takes_the_likeliest_whatever_the_rest_says() -> None:
    assert Sampler(Sampling(top_k=3, top_p=0.1, seed=7)).choose(LOGITS) == 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.4, 0.1, 0.2, 0.3]),
        ({"temperature": 0.5}, [16 / 30, 1 / 30, 4 / 30, 9 / 30]),
        ({"top_k": 2}, [4 / 7, 0, 0, 3 / 7]),
        ({"top_k": 99}, [0.4, 0.1, 0.2, 0.3]),
        ({"top_p": 0.39}, [1, 0, 0, 0]),
        ({"top_p": 1e-300}, [1, 0, 0, 0]),
        ({"top_p": 5e-324, "temperature": 1e300}, [1, 0, 0, 0]),
        ({"top_p": 0.65}, [4 / 7, 0, 0, 3 / 7]),
        ({"top_p": 0.75}, [4 / 9, 0, 2 / 9, 3 / 9]),
        ({"top_p": 1.0}, [0.4, 0.1, 0.2, 0.3]),
        ({"top_k": 3, "top_p": 0.5}, [4 / 7, 0, 0, 3 / 7]),
    ],
)
def test_the_probabilities_are_those_of_the_definition(options: dict[str, Any], expected: list[float]) -> None:
    found = likely(LOGITS.clone(), Sampling(**{"temperature": 1.0, **options}))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("temperature", [1e-30, 1e-300, 5e-324, 1e300])
def test_no_temperature_is_too_small_or_too_large(temperature: float) -> None:
    expected = [1.0, 0, 0, 0] if temperature < 1 else [0.25] * 4
    for logits in (LOGITS, LOGITS + 90, LOGITS - 90):
        found = likely(logits, Sampling(temperature=temperature, top_p=0.9 if temperature < 1 else None))
        torch.testing.assert_close(found, torch.tensor(expected))


def test_draws_have_the_probabilities_and_a_seed_repeats_them() -> None:
    def draws(seed: int) -> list[int]:
        sampler = Sampler(Sampling(temperature=1.0, seed=seed))
        return [sampler.choose(LOGITS) for _ in range(4000)]

    first = draws(3)
    assert first == draws(3) != draws(4)
    shares = torch.bincount(torch.tensor(first), minlength=4) / 4000
    torch.testing.assert_close(shares, LOGITS.exp(), rtol=0, atol=0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.5}, r"temperature \(-0.5\) must be a finite number of at least 0"),
        ({"temperature": float("nan")}, r"temperature \(nan\) must be a finite number of at least 0"),
        ({"temperature": float("inf")}, r"temperature \(inf\)"),
        ({"top_k": 0}, r"top_k \(0\) must be above 0; 50 works"),
        ({"top_p": 0.0}, r"top_p \(0.0\) must be above 0 and at most 1; 0.95 works"),
        ({"top_p": 1.1}, r"top_p \(1.1\)"),
        ({"seed": -1}, r"seed \(-1\) must be an integer of at least 0 and below"),
    ],
)
def test_values_that_cannot_be_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**options)
