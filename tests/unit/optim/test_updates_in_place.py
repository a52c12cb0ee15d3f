"""Optimizers of ours over tensors of this process: an update in pieces is the one over whole tensors."""

from dataclasses import replace

import pytest
import torch

from pretrain.config.schema import OptimConfig
from pretrain.optim import in_place
from pretrain.optim.registry import optimizer_of
from pretrain.optim.states import make_states
from tests.unit.optim.test_registry import megatron

OPTIM = OptimConfig(lr=0.1, ademamix_alpha_warmup_steps=4, ademamix_beta3_warmup_steps=4)


@pytest.mark.parametrize("name", ["ademamix", "lion", "stable_adamw"])
def test_an_update_in_pieces_is_that_of_whole_tensors_and_of_all_of_them_at_once(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stated = optimizer_of(replace(OPTIM, name=name))

    def trained() -> list[torch.Tensor]:
        torch.manual_seed(1)
        mains = [torch.randn(7, 5), torch.randn(3), torch.randn(4, 6).t()]
        optimizer = megatron(torch.optim.AdamW(mains, lr=0.01, weight_decay=0.5))
        make_states(optimizer, stated)
        optimizer.optimizer.param_groups[0].update(stated.settings(OPTIM))
        for number in range(6):
            for main in mains:
                main.grad = torch.randn_like(main) * 3**number  # growing: updates are clipped
            optimizer.optimizer.step()
        return [*mains, *(optimizer.optimizer.state[main][state] for main in mains for state in stated.states)]

    whole = trained()
    monkeypatch.setattr(in_place, "PIECE", 4)
    assert all(torch.equal(one, other) for one, other in zip(whole, trained(), strict=True))
    monkeypatch.setattr(in_place, "in_pieces", lambda tensor: False)  # as on a GPU
    assert all(torch.equal(one, other) for one, other in zip(whole, trained(), strict=True))
