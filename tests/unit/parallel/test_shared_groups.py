"""On a CPU the groups of the same ranks are one group, and all ranks agree on which those are."""

from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from megatron.core import parallel_state
from torch.testing._internal.distributed.fake_pg import FakeStore

from pretrain.parallel.device import keep_groups_apart, share_groups
from pretrain.parallel.world import open_lone_world

Members = dict[tuple[int, ...], set[str]]
"""Ranks of the groups that one rank is in, with torch's names of the groups of just these ranks."""


def groups_of(
    rank: int, layout: dict[str, Any], *, num_ranks: int, shared: bool = True
) -> tuple[Members, dict[str, list[int]]]:
    """Open the groups of one rank without the others; also the ranks of the groups that a step uses, by what they are for."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=num_ranks)
    (share_groups if shared else keep_groups_apart)()  # whatever the world before this one in the process did
    try:
        parallel_state.initialize_model_parallel(create_gloo_process_groups=False, **layout)
        members: Members = {}
        for group, ranks in dist.distributed_c10d._world.pg_group_ranks.items():
            if isinstance(group, dist.ProcessGroup):  # one entry stands for all groups without this rank
                members.setdefault(tuple(sorted(ranks)), set()).add(group.group_name)
        used: dict[str, Any] = {
            "tensor": parallel_state.get_tensor_model_parallel_group(),
            "pipeline": parallel_state.get_pipeline_model_parallel_group(),
            "data": parallel_state.get_data_parallel_group(),
            "norm": parallel_state.get_model_parallel_group(),
        }
        return members, {name: dist.get_process_group_ranks(group) for name, group in used.items()}
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


LAYOUTS = {
    "tp2-pp2": ({"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2}, 4),
    "tp2-dp2": ({"tensor_model_parallel_size": 2}, 4),
    "pp2-dp2": ({"pipeline_model_parallel_size": 2}, 4),
    "dp2": ({}, 2),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_set_of_ranks_has_one_group_and_every_rank_knows_it_by_the_same_name(name: str) -> None:
    layout, num_ranks = LAYOUTS[name]
    names: dict[tuple[int, ...], set[str]] = {}
    for rank in range(num_ranks):
        members, _ = groups_of(rank, layout, num_ranks=num_ranks)
        for ranks, known in members.items():
            assert len(known) == 1 and rank in ranks
            names.setdefault(ranks, set()).update(known)
    assert all(len(known) == 1 for known in names.values()), names
    assert tuple(range(num_ranks)) in names


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_shared_group_has_the_ranks_that_megatron_gives_it(name: str) -> None:
    layout, num_ranks = LAYOUTS[name]
    for rank in range(num_ranks):
        alone, own = (groups_of(rank, layout, num_ranks=num_ranks, shared=shared) for shared in (True, False))
        assert alone[1] == own[1]
        assert alone[0].keys() == own[0].keys()
        assert max(len(known) for known in own[0].values()) > 4, (
            "megatron makes many of the same ranks: this is why they are shared"
        )


def test_a_rank_counts_the_groups_that_it_is_not_in() -> None:
    """torch names a group by how many the process has asked for."""
    names = set()
    for rank in (0, 3):
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=4)
        original = parallel_state.create_group
        try:
            share_groups()
            for ranks in ([0], [0], [1, 2], [0]):
                parallel_state.create_group(ranks)
            names.add(parallel_state.create_group([0, 3]).group_name)
        finally:
            parallel_state.destroy_model_parallel()
            dist.destroy_process_group()
            parallel_state.create_group = original
    assert len(names) == 1


def test_gloo_has_the_threads_of_one_group_in_a_process_alone() -> None:
    def threads() -> set[str]:
        return {path.name for path in Path("/proc/self/task").iterdir()}

    before = threads()
    with open_lone_world():
        assert len(threads() - before) == 3, "two for collectives, one for sockets"
