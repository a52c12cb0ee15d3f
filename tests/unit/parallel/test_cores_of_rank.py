"""A rank's share of a node's cores, as whoever started it describes the node."""

import os

import pytest

from pretrain.parallel.environment import cores_of_rank

NAMES = ("LOCAL_WORLD_SIZE", "WORLD_SIZE", "SLURM_STEP_TASKS_PER_NODE", "SLURM_CPUS_ON_NODE")
CASES = {
    "alone": ({}, 32, 32),
    "torchrun": ({"LOCAL_WORLD_SIZE": "8", "WORLD_SIZE": "64"}, 32, 4),
    "our launcher": ({"WORLD_SIZE": "4"}, 32, 8),
    "srun": ({"SLURM_STEP_TASKS_PER_NODE": "8(x4),3"}, 32, 4),
    "more ranks than cores": ({"LOCAL_WORLD_SIZE": "64"}, 32, 1),
    "bound to some cores": ({"LOCAL_WORLD_SIZE": "8"}, 4, 4),
    "a job of some cores of the node": ({"LOCAL_WORLD_SIZE": "4", "SLURM_CPUS_ON_NODE": "8"}, 8, 2),
    "a job that is bound to nothing": ({"LOCAL_WORLD_SIZE": "4", "SLURM_CPUS_ON_NODE": "8"}, 32, 2),
    "a job whose ranks are bound": ({"LOCAL_WORLD_SIZE": "4", "SLURM_CPUS_ON_NODE": "8"}, 2, 2),
    "an unreadable number": ({"WORLD_SIZE": "many"}, 32, 32),
}


@pytest.mark.parametrize("case", CASES)
def test_the_cores_are_shared_by_the_ranks_of_the_node(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    variables, usable, expected = CASES[case]
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "cpu_count", lambda: 32)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(usable)))
    assert cores_of_rank() == expected
