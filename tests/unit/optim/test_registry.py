"""What optimizers state of themselves, and that it is held against what they keep."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import pytest
import torch

from pretrain.config.schema import OptimConfig
from pretrain.model.families.table import Part, TensorSpec
from pretrain.optim.adamw import OPTIMIZER as ADAMW
from pretrain.optim.registry import Optimizer, checkpoint_states, optimizer_of, states_kept
from pretrain.optim.states import make_states, num_updates, set_num_updates, take_groups
from pretrain.parallel.world import open_lone_world

NAMES = get_args(get_type_hints(OptimConfig)["name"])
OPTIM = OptimConfig(lr=0.1)


class CountsInGroups(torch.optim.Optimizer):
    """Adam as Apex and Transformer Engine write it: the number of updates is in the group, and made by the first of them."""

    def __init__(self, parameters: list[torch.Tensor]) -> None:
        super().__init__(parameters, {})

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            if group["params"]:
                group["step"] = group.get("step", 0) + 1


def megatron(inner: torch.optim.Optimizer) -> Any:
    """As much of megatron-core's optimizer as holds torch's."""
    return SimpleNamespace(optimizer=inner, config=SimpleNamespace(bf16=False))


def parameters() -> list[torch.Tensor]:
    found = [torch.ones(3, 2), torch.ones(4)]
    for parameter in found:
        parameter.grad = torch.ones_like(parameter)
    return found


def tensors_of(parameters: list[torch.Tensor]) -> dict[Any, TensorSpec]:
    """The parameters as tensors of a layer: a matrix, and a norm."""
    return {
        one: TensorSpec(name=f"tensor {number}", shape=tuple(one.shape), parts=(Part(rows=(range(len(one)),)),))
        for number, one in enumerate(parameters)
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_of_the_config_has_a_file_that_states_what_it_keeps(name: str) -> None:
    optim = replace(OPTIM, name=name)
    stated = optimizer_of(optim)
    assert checkpoint_states(optim) == ("param", *stated.states) and len(set(stated.states)) == len(stated.states)
    inner = stated.over(torch.optim.AdamW(parameters()))
    assert stated.settings(optim).keys() <= inner.param_groups[0].keys(), "a setting that no group has acts on nothing"
    assert stated.title and stated.described(optim)


@pytest.mark.parametrize("before", NAMES)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept_of_another_optimizer_means_the_same_in_both(name: str, before: str) -> None:
    """Everyone keeps Adam's moments but Lion, whose average is another one; Muon's moments are not those of every tensor."""
    kept = states_kept(replace(OPTIM, name=name), before)
    if name == before:
        assert kept == optimizer_of(replace(OPTIM, name=name)).states
    elif name == "lion" or before in ("lion", "muon"):
        assert kept == ()
    else:
        assert kept == ("exp_avg", "exp_avg_sq")


@pytest.mark.parametrize("name", NAMES)
def test_states_are_there_before_the_first_update_and_are_those_that_it_changes(name: str) -> None:
    stated, mains = optimizer_of(replace(OPTIM, name=name)), parameters()
    optimizer = megatron(torch.optim.AdamW(mains))
    specs = tensors_of(mains)
    with open_lone_world():
        make_states(optimizer, stated, specs)
        optimizer.optimizer.param_groups[0].update(stated.settings(OPTIM))
        state = optimizer.optimizer.state
        kept = [state[main][name] for main in mains for name in stated.kept_of(specs[main])]
        assert {name for main in mains for name in state[main]} - {"step"} == set(stated.states)
        assert not any(values.any() for values in kept) and num_updates(optimizer) == 0
        for _ in range(2):
            optimizer.optimizer.step()
    assert all(values.any() for values in kept)
    assert not any(torch.equal(main, torch.ones_like(main)) for main in mains)
    assert num_updates(optimizer) == (2 if stated.counts_updates else 0)


def test_adamw_with_states_made_before_updates_as_torch_makes_them() -> None:
    ours, theirs = parameters(), parameters()
    optimizer, plain = megatron(torch.optim.AdamW(ours)), torch.optim.AdamW(theirs)
    make_states(optimizer, ADAMW)
    for _ in range(3):
        optimizer.optimizer.step()
        plain.step()
    assert all(torch.equal(mine, other) for mine, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("change", [{"states": ("exp_avg",)}, {"counts_updates": False}], ids=str)
def test_an_optimizer_that_keeps_more_than_it_states_is_not_built(change: dict[str, Any]) -> None:
    def over(adam: torch.optim.Optimizer) -> torch.optim.Optimizer:
        for parameter in adam.param_groups[0]["params"]:
            adam.state[parameter]["exp_avg_sq"] = torch.zeros_like(parameter)
        return ADAMW.over(adam)

    make_states(megatron(torch.optim.AdamW(parameters())), replace(ADAMW, over=over))
    wrong: Optimizer = replace(ADAMW, over=over, **change)
    with pytest.raises(AssertionError, match=r"AdamW (keeps|has counters)"):
        make_states(megatron(torch.optim.AdamW(parameters())), wrong)


@pytest.mark.parametrize("adam", [torch.optim.AdamW, CountsInGroups])
def test_the_number_of_updates_is_set_before_the_first_one_wherever_it_is_counted(adam: Any) -> None:
    optimizer = megatron(adam(parameters()))
    optimizer.optimizer.param_groups.append({**optimizer.optimizer.param_groups[0], "params": []})
    make_states(optimizer, ADAMW)
    set_num_updates(optimizer, 7)
    assert num_updates(optimizer) == 7
    optimizer.optimizer.step()
    assert num_updates(optimizer) == 8


def test_another_optimizer_takes_the_groups_of_adam_over_views_that_torch_refuses() -> None:
    whole = torch.ones(6, requires_grad=True)
    adam = torch.optim.AdamW([torch.zeros(1)], weight_decay=0.5)
    adam.param_groups[0]["params"] = [whole[2:4], whole[4:]]
    with pytest.raises(ValueError, match="non-leaf"):
        torch.optim.SGD(adam.param_groups, momentum=0.5)
    taken = take_groups(torch.optim.SGD([torch.zeros(1)], momentum=0.5), adam)
    assert taken.param_groups is adam.param_groups
    assert (taken.param_groups[0]["momentum"], taken.param_groups[0]["weight_decay"]) == (0.5, 0.5)


def test_what_an_optimizer_states_is_known_without_torch() -> None:
    code = (
        "import sys; from pretrain.config.schema import OptimConfig; from pretrain.optim.registry import checkpoint_states; "
        "assert len(checkpoint_states(OptimConfig())) == 3 and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
