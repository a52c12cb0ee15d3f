"""A node's name: by slurmd, by the list of a step, by the host."""

import socket

import pytest

from fanal.node_name import MOST_NODES, expanded, node_name


@pytest.mark.parametrize(
    ("listed", "nodes"),
    [
        ("n1", ["n1"]), ("n[1-3]", ["n1", "n2", "n3"]), ("lrdn[0337,0417-0418],x9", ["lrdn0337", "lrdn0417", "lrdn0418", "x9"]),
        ("jpbo-[001-002]-[09-10]", ["jpbo-001-09", "jpbo-001-10", "jpbo-002-09", "jpbo-002-10"]), ("nid[005124-005125]", ["nid005124", "nid005125"]),
        ("", []), ("n[a-b]", []), (f"n[1-{MOST_NODES + 2}]", []),
    ],
)  # fmt: skip
def test_a_list_is_expanded(listed: str, nodes: list[str]) -> None:
    assert expanded(listed) == nodes


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"SLURMD_NODENAME": "n7", "SLURM_NODEID": "1", "SLURM_JOB_NODELIST": "n[1-3]"}, "n7"),
        ({"SLURM_NODEID": "1", "SLURM_JOB_NODELIST": "jpbo-[001-003]-01"}, "jpbo-002-01"),
        ({"SLURM_NODEID": "0", "SLURM_JOB_NODELIST": "n[1-3]", "SLURM_STEP_NODELIST": "n[2-3]"}, "n2"),
        ({"SLURM_NODEID": "5", "SLURM_JOB_NODELIST": "n[1-3]"}, socket.gethostname()),
        ({"SLURM_JOB_NODELIST": "n[1-3]"}, socket.gethostname()), ({}, socket.gethostname()),
    ],
)  # fmt: skip
def test_a_node_without_slurmd_finds_its_name(names: dict[str, str], expected: str) -> None:
    assert node_name(names) == expected
