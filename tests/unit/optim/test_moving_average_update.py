"""The moving average by itself: what one update makes of it, and what it leaves alone."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pretrain.config.schema import OptimConfig
from pretrain.optim.adamw import OPTIMIZER as ADAMW
from pretrain.optim.ema import begin_averages, make_averages, update_averages
from pretrain.optim.registry import EMA, checkpoint_states
from pretrain.optim.states import make_states


def optimizer_of(mains: list[torch.Tensor]) -> Any:
    """As much of megatron-core's optimizer as holds torch's; its last group has no parameter on this rank."""
    for main in mains:
        main.grad = torch.randn_like(main)
    inner = torch.optim.AdamW(mains, lr=0.1)
    inner.param_groups.append({**inner.param_groups[0], "params": []})
    found = SimpleNamespace(optimizer=inner)
    make_states(found, ADAMW)  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("decay", [0.3, 0.995, 0.99999])
def test_a_thousand_updates_are_those_of_fp64(decay: float) -> None:
    torch.manual_seed(0)
    main = torch.randn(64, 3)
    optimizer = optimizer_of([main])
    make_averages(optimizer, decay)
    expected = main.double()
    for _ in range(1000):
        optimizer.optimizer.step()
        update_averages(optimizer)
        expected = decay * expected + (1 - decay) * main.double()
    found = optimizer.optimizer.state[main][EMA]
    assert (found - expected).abs().max() < 2e-6 * expected.abs().max()
    assert (found - main).abs().max() > 1e-3


def test_it_begins_with_the_weights_and_is_nobody_s_memory_but_its_own() -> None:
    mains = [torch.randn(5), torch.randn(2, 2)]
    optimizer = optimizer_of(mains)
    make_averages(optimizer, 0.5)
    averages = [optimizer.optimizer.state[main][EMA] for main in mains]
    before = [main.clone() for main in mains]
    assert all(torch.equal(average, main) for average, main in zip(averages, mains, strict=True))
    optimizer.optimizer.step()
    assert all(torch.equal(average, main) for average, main in zip(averages, before, strict=True))
    begin_averages(optimizer)
    assert all(torch.equal(average, main) for average, main in zip(averages, mains, strict=True))
    assert all(optimizer.optimizer.state[main][EMA] is average for average, main in zip(averages, mains, strict=True))


def test_a_run_without_an_average_keeps_none_and_updates_none() -> None:
    main = torch.randn(5)
    optimizer = optimizer_of([main])
    update_averages(optimizer)
    begin_averages(optimizer)
    assert EMA not in optimizer.optimizer.state[main]
    assert EMA not in checkpoint_states(OptimConfig(lr=0.1))
    assert checkpoint_states(replace(OptimConfig(lr=0.1), ema_decay=0.9))[-1] == EMA
