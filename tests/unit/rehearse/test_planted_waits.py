"""A rehearsal finds what it is there to find: faults planted in the trainer, each of which runs well on a CPU."""

import json
from typing import Any

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
    assert copied["waits"] == sound["waits"]
    assert json.dumps(sound) == json.dumps(rehearsed()), "the same is counted each time"


def test_tensors_on_two_devices_end_the_rehearsal() -> None:
    for fault in (MASK_ON_THE_HOST, NORMS_ON_THE_HOST):
        done = alone(REHEARSE.format(fault=fault, overrides="[]"))
        assert done.returncode != 0
        assert "fakegpu" in done.stderr and "cpu" in done.stderr, done.stderr[-2000:]
