"""What ranks send for key and value heads that they share, and what a vocabulary that does not divide takes, in a rehearsed step."""

import json
from typing import Any

import pytest

from pretrain.config.derive import kv_channels
from pretrain.config.load import load_run
from tests.unit.rehearse.alone import ROOT, answer

TINY = str(ROOT / "configs" / "tiny.yaml")
TP4 = (
    "parallel.tensor_model_parallel_size=4", "parallel.pipeline_model_parallel_size=1", "parallel.sequence_parallel=true",
    "parallel.device=auto", "train.precision=bf16", "train.global_batch_size=8", "model.add_qkv_bias=true",
    "model.make_vocab_size_divisible_by=1", "model.vocab_size=2001", "model.num_attention_heads=8",
)  # fmt: skip
REHEARSE = """
import json
from pretrain.config.load import load_run
from pretrain.rehearse.rank import rehearse_rank
found = []
for overrides, rank in json.loads('''{cases}'''):
    done = rehearse_rank(load_run("{config}", overrides), rank=rank, num_ranks=4)
    traffic = [[one.group, one.operation, one.calls, one.num_bytes] for one in done.step.traffic]
    found.append([done.num_parameters, traffic, done.step.flops])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def rehearsed() -> dict[tuple[int, int], list[Any]]:
    """(parameters, traffic, operations) by number of groups and rank."""
    keys = [(groups, rank) for groups in (4, 2, 1) for rank in (0, 3)]
    cases = json.dumps([([*TP4, f"model.num_query_groups={groups}"], rank) for groups, rank in keys])
    return dict(zip(keys, answer(REHEARSE.format(cases=cases, config=TINY)), strict=True))


def test_the_gradients_of_shared_heads_are_sent_once_a_step_in_fp32(
    rehearsed: dict[tuple[int, int], list[Any]],
) -> None:
    model = load_run(TINY, TP4).model
    shared = 2 * kv_channels(model) * (model.hidden_size + 1) * 4 * model.num_layers
    for rank in (0, 3):
        of_groups = {groups: rehearsed[groups, rank][1] for groups in (4, 2, 1)}
        assert not any(group == "key/value" for group, *_ in of_groups[4])
        assert ["key/value", "allreduce", 2 * model.num_layers, shared] in of_groups[2]
        (two,), (one,) = (
            [(calls, size) for group, operation, calls, size in of_groups[groups] if (group, operation) == ("tp", "allreduce")]
            for groups in (4, 1)
        )  # fmt: skip
        assert (one[0] - two[0], one[1] - two[1]) == (2 * model.num_layers, shared), "all of the ranks are its holders"


def test_a_rank_has_one_key_and_one_value_head_however_few_groups_there_are(
    rehearsed: dict[tuple[int, int], list[Any]],
) -> None:
    parameters = {rehearsed[groups, rank][0] for groups in (4, 2, 1) for rank in (0, 3)}
    operations = {rehearsed[groups, rank][2] for groups in (4, 2, 1) for rank in (0, 3)}
    assert len(parameters) == len(operations) == 1
