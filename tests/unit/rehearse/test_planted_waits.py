"""A rehearsal finds what it is there to find: faults planted in the trainer, each of which runs well on a CPU."""

import json
from typing import Any

import pytest

from tests.unit.rehearse.alone import alone, answer

REHEARSE = """
import dataclasses, json
from pretrain.config.load import load_run
from pretrain.rehearse.rank import rehearse_rank
import pretrain.model.gpt as gpt
import pretrain.train.step as step
import torch
{fault}
run = load_run("configs/tiny.yaml", ["parallel.device=auto", "train.precision=bf16", "train.global_batch_size=8", *{overrides}])
found = rehearse_rank(run, rank=2, num_ranks=4)
print(json.dumps(dataclasses.asdict(found.step)))
"""
LOSS_IS_READ = """
whole = step.masked_loss
def masked_loss(*arguments):
    answer = whole(*arguments)
    float(answer[0].detach())
    return answer
step.masked_loss = masked_loss
"""
MASK_FROM_THE_HOST = """
whole = step.masked_loss
step.masked_loss = lambda mask, *rest: whole(torch.ones(mask.shape).to(mask.device), *rest)
"""
MASK_ON_THE_HOST = """
whole = step.masked_loss
step.masked_loss = lambda mask, *rest: whole(torch.ones(mask.shape), *rest)
"""
NORMS_ON_THE_HOST = """
from pretrain.model.norms import RMSNorm
all_of = torch.nn.Module.modules
gpt.Decoder.modules = lambda self: (module for module in all_of(self) if not isinstance(module, RMSNorm))
"""
MICRO_BATCHES = 2


def rehearsed(fault: str = "", overrides: str = "[]") -> dict[str, Any]:
    """The step of the last stage of a small run, with a fault or without."""
    return answer(REHEARSE.format(fault=fault, overrides=overrides))


def counted(rows: list[dict[str, Any]]) -> int:
    return sum(row["count"] for row in rows)


def test_a_read_of_the_loss_in_each_micro_batch_and_a_mask_from_the_host_are_counted() -> None:
    sound, read, copied = rehearsed(), rehearsed(LOSS_IS_READ), rehearsed(MASK_FROM_THE_HOST)
    assert counted(read["waits"]) == counted(sound["waits"]) + MICRO_BATCHES
    assert read["copies"] == sound["copies"]
    assert counted(copied["copies"]) == counted(sound["copies"]) + MICRO_BATCHES
    assert counted(copied["waits"]) == counted(sound["waits"]) + MICRO_BATCHES, (
        "a copy that is not told to go on is waited for"
    )
    assert json.dumps(sound) == json.dumps(rehearsed()), "the same is counted each time"


AVERAGE_READ_ON_THE_HOST = """
import pretrain.optim.optimizer as ours
whole = ours.update_averages
def update_averages(optimizer):
    whole(optimizer)
    float(optimizer.param_groups[0]["params"][0].detach().sum())
ours.update_averages = update_averages
"""


def test_a_moving_average_costs_no_wait_and_no_collective() -> None:
    sound, averaged = rehearsed(), rehearsed(overrides='["optim.ema_decay=0.999"]')
    assert averaged == sound
    read = rehearsed(AVERAGE_READ_ON_THE_HOST, overrides='["optim.ema_decay=0.999"]')
    assert counted(read["waits"]) == counted(sound["waits"]) + 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (MASK_ON_THE_HOST, "two devices, fakegpu:0 and cpu"),
        (NORMS_ON_THE_HOST, "incompatible tensor type"),  # where megatron-core binds a parameter to its buffer
    ],
    ids=["a mask", "the norms"],
)
def test_what_was_left_on_the_host_ends_the_rehearsal(fault: str, message: str) -> None:
    done = alone(REHEARSE.format(fault=fault, overrides="[]"))
    assert done.returncode != 0
    assert message in done.stderr, done.stderr[-2000:]
