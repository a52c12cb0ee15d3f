"""AdEMAMix's schedules by hand, and that its update in pieces is the one over all tensors."""

import math
from typing import Any

import pytest
import torch

from pretrain.config.schema import OptimConfig
from pretrain.optim import in_place
from pretrain.optim.ademamix import OPTIMIZER, alpha_at, beta3_at
from pretrain.optim.states import make_states
from tests.unit.optim.test_registry import megatron

OPTIM = OptimConfig(lr=0.1, name="ademamix", ademamix_alpha_warmup_steps=4, ademamix_beta3_warmup_steps=4)


def half_life(beta: float) -> float:
    return math.log(0.5) / math.log(beta)


def test_alpha_rises_along_a_line_and_stays() -> None:
    assert [alpha_at(update, alpha=8.0, warmup=4) for update in (1, 2, 4, 5)] == [2.0, 4.0, 8.0, 8.0]
    assert alpha_at(1, alpha=8.0, warmup=0) == 8.0


def test_the_half_life_of_beta3_grows_along_a_line() -> None:
    settings: dict[str, Any] = {"beta1": 0.9, "beta3": 0.9999, "warmup": 100_000}
    found = [half_life(beta3_at(update, **settings)) for update in (0, 25_000, 50_000, 100_000, 200_000)]
    first, last = half_life(0.9), half_life(0.9999)
    expected = [first, first + (last - first) / 4, (first + last) / 2, last, last]
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("beta1", "beta3"), [(0.0, 0.9), (0.9, 0.0), (0.0, 0.0), (0.9, 0.9), (0.95, 0.9)])
def test_decays_at_the_ends_of_their_range_stay_in_it(beta1: float, beta3: float) -> None:
    for update in range(1, 12):
        assert 0.0 <= beta3_at(update, beta1=beta1, beta3=beta3, warmup=10) <= max(beta1, beta3)


def test_an_update_in_pieces_is_the_update_of_all_tensors_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained() -> list[torch.Tensor]:
        torch.manual_seed(1)
        mains = [torch.randn(7, 5), torch.randn(3), torch.randn(4, 6).t()]
        optimizer = megatron(torch.optim.AdamW(mains, lr=0.01))
        make_states(optimizer, OPTIMIZER)
        optimizer.optimizer.param_groups[0].update(OPTIMIZER.settings(OPTIM))
        for _ in range(6):
            for main in mains:
                main.grad = torch.randn_like(main)
            optimizer.optimizer.step()
        return [*mains, *(value for state in optimizer.optimizer.state.values() for value in state.values())]

    whole = trained()
    monkeypatch.setattr(in_place, "PIECE", 4)
    assert all(torch.equal(one, other) for one, other in zip(whole, trained(), strict=True))
