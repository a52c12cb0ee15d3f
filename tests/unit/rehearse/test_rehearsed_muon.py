"""What Muon is said to cost is what its rehearsed ranks do."""

import json

import pytest

from pretrain.config.load import load_run
from pretrain.optim.matrices import Cost, cost
from tests.runs.cases import DP2, NO_DISTRIBUTED_OPTIMIZER, PP2, TP2
from tests.unit.rehearse.alone import ROOT, answer

ONE_GPU = (
    "parallel.device=auto", "parallel.tensor_model_parallel_size=1", "parallel.pipeline_model_parallel_size=1",
    "parallel.sequence_parallel=false", "train.precision=bf16", "train.global_batch_size=8",
)  # fmt: skip
CP2 = ("parallel.context_parallel_size=2",)
LAYOUTS = {
    "one rank": ((), [0], 1),
    "tp2": (TP2, [0, 1], 2),
    "dp2": (DP2, [0, 1], 2),
    "dp2-replicated": ((*DP2, *NO_DISTRIBUTED_OPTIMIZER), [0, 1], 2),
    "tp2-pp2, most layers first": ((*TP2, *PP2, "parallel.pipeline_layers=[3,1]"), [0, 1], 4),
    "tp2-pp2-dp2": ((*TP2, *PP2, *DP2), [0, 1, 2, 3], 8),
    "tp2-cp2": ((*TP2, *CP2), [0, 1, 2, 3], 4),
    "cp2-replicated": ((*CP2, *NO_DISTRIBUTED_OPTIMIZER), [0, 1], 2),
    "tp2-dp2, one group": ((*TP2, *DP2, "model.num_query_groups=1"), [0, 1, 2, 3], 4),
}
"""Overrides, the ranks of the first stage, and of all."""
Done = tuple[int, dict[str, tuple[int, int]]]
"""Operations that Muon does and AdamW does not, and (calls, bytes) of what it sends more."""
REHEARSE = """
import json
from pretrain.config.load import load_run
from pretrain.rehearse.rank import rehearse_rank
found = []
for overrides, ranks, num_ranks in json.loads('''{cases}'''):
    for rank in ranks:
        of_names = []
        for name in ("muon", "adamw"):
            step = rehearse_rank(load_run("{config}", [*overrides, "optim.name=" + name]), rank=rank, num_ranks=num_ranks).step
            traffic = [[one.group, one.operation, one.calls, one.num_bytes] for one in step.traffic]
            of_names.append([step.flops, traffic])
        found.append(of_names)
print(json.dumps(found))
"""


def rehearsed(config: str, cases: list[tuple[list[str], list[int], int]]) -> list[Done]:
    """What each rank of each case does more than with AdamW."""
    found = []
    for (flops, traffic), (flops_before, before) in answer(REHEARSE.format(cases=json.dumps(cases), config=config)):
        less = {(group, operation): (calls, size) for group, operation, calls, size in before}
        more = {}
        for group, operation, calls, size in traffic:
            known = less.get((group, operation), (0, 0))
            if (calls, size) != known:
                more[f"{group}: {operation}"] = calls - known[0], size - known[1]
        found.append((flops - flops_before, more))
    return found


@pytest.fixture(scope="module")
def small() -> dict[str, tuple[Cost, list[Done]]]:
    """By layout what is stated, and what each rank of its first stage does."""
    tiny = str(ROOT / "configs" / "tiny.yaml")
    results = iter(rehearsed(tiny, [([*ONE_GPU, *o], ranks, size) for o, ranks, size in LAYOUTS.values()]))
    found = {}
    for name, (overrides, ranks, num_ranks) in LAYOUTS.items():
        run = load_run(tiny, [*ONE_GPU, *overrides, "optim.name=muon"])
        found[name] = cost(run, num_ranks=num_ranks), [next(results) for _ in ranks]
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_ranks_of_a_stage_do_the_stated_operations_together(
    small: dict[str, tuple[Cost, list[Done]]], layout: str
) -> None:
    stated, ranks = small[layout]
    assert sum(flops for flops, _ in ranks) == stated.flops > 0
    assert ranks[0][0] == stated.flops_of_rank_0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_ranks_of_a_stage_send_the_stated_bytes_together(
    small: dict[str, tuple[Cost, list[Done]]], layout: str
) -> None:
    stated, ranks = small[layout]
    copies = "dp x cp" if "cp" in layout else "dp"
    exchanges = [more.pop(f"tp x {copies}: alltoall", (0, 0)) for _, more in ranks]
    gathers = [more.pop(f"{copies}: allgather", (0, 0)) for _, more in ranks]
    assert not any(more for _, more in ranks), "nothing else is sent"
    assert sum(size for _, size in exchanges) == stated.moved_bytes
    assert all(calls == (2 * stated.num_rounds if len(ranks) > 1 else 0) for calls, _ in exchanges)
    for calls, size in gathers:
        assert calls == (stated.num_rounds if layout.endswith("-replicated") else 0)
        assert 0 <= size - stated.gathered_bytes <= 2 * 2 * stated.num_matrices


def test_a_large_layout_is_rehearsed_and_its_first_rank_does_what_is_stated() -> None:
    config = str(ROOT / "configs" / "lucie-7b" / "pretrain.yaml")
    ((flops, more),) = rehearsed(config, [([], [0], 512)])
    stated = cost(load_run(config, ["optim.name=muon"]), num_ranks=512)
    assert flops == stated.flops_of_rank_0
    assert more["dp: allgather"] == (1, stated.gathered_bytes)
    calls, size = more["tp x dp: alltoall"]
    whole = 2 * 12288 * 4096  # bytes of the matrix that it orthogonalizes, which it gives back
    assert calls == 2 and size - whole == pytest.approx(stated.moved_bytes / 2 / 128)
