"""The line about a hang, from flight records as torch 2.13 writes them (a real one of gloo is in the first test)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fanal.run_folder import COLLECTIVES_FILE
from launch.status.collectives import Record, hang, read_record, verdict

ROOT = Path(__file__).parents[3]
Groups = dict[str, tuple[int, int, int]]
"""By name: the rank's own number of the group, collectives enqueued, collectives completed."""


def record(groups: Groups, *, ranks: int = 4, open_messages: int = 0) -> bytes:
    """A flight record with the fields that torch's JSON has (FlightRecorderDetail.hpp, version 2.10)."""
    entries = []
    for name, (number, enqueued, completed) in groups.items():
        for seq in range(max(1, enqueued - 2), enqueued + 1):
            entries.append(
                {
                    "collective_seq_id": seq, "p2p_seq_id": 0, "op_id": seq, "is_p2p": False, "pg_id": number, "process_group": [name, f"{name}_DESC"],
                    "profiling_name": f"nccl:all_reduce_{seq}", "record_id": len(entries), "retired": seq <= completed,
                    "state": "completed" if seq <= completed else "started", "timeout_ms": 600000, "input_sizes": [[3]], "input_dtypes": ["Float"],
                }
            )  # fmt: skip
    for seq in range(open_messages):
        name, (number, *_) = next(iter(groups.items()))
        entries.append(
            {
                "collective_seq_id": 0, "p2p_seq_id": seq, "is_p2p": True, "pg_id": number, "process_group": [name, ""], "retired": False,
                "profiling_name": "nccl:recv 0<-1", "state": "scheduled",
            }
        )  # fmt: skip
    status = {
        str(number): {"last_enqueued_collective": str(enqueued), "last_started_collective": str(enqueued), "last_completed_collective": str(completed)}
        for number, enqueued, completed in groups.values()
    }  # fmt: skip
    config = {name: {"name": name, "desc": "", "ranks": str(list(range(ranks)))} for name in groups}
    return json.dumps({"version": "2.10", "entries": entries, "pg_status": status, "pg_config": config}).encode()


def records(by_rank: dict[int, Groups], **options: int) -> dict[int, Record]:
    found = {rank: read_record(record(groups, **options)) for rank, groups in by_rank.items()}
    assert all(one is not None for one in found.values())
    return found  # type: ignore[return-value]


OF_ONE_RANK = """
import sys
import time
import torch
import torch.distributed as dist
from pretrain.train.flight_record import flight_record
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
for _ in range(3):
    dist.all_reduce(torch.ones(3))
end = time.monotonic() + 60
while b'"last_completed_collective":"3"' not in flight_record().replace(b" ", b"") and time.monotonic() < end:
    time.sleep(0.01)
sys.stdout.buffer.write(flight_record())
"""
"""In a process of its own: the recorder keeps what other worlds of its process left behind. A thread of gloo's notes that a
collective is completed, which may be after its caller has gone on.
"""


def test_torch_s_own_record_is_read() -> None:
    done = subprocess.run([sys.executable, "-c", OF_ONE_RANK], cwd=ROOT, capture_output=True, check=True)
    found = read_record(done.stdout)
    assert found is not None and found.ranks == {0} and not found.waits
    (group,) = (group for group in found.groups.values() if group.title == "default_pg")
    assert group.enqueued == group.completed == 3 and group.names[group.enqueued] == "gloo:all_reduce"


def test_the_rank_that_has_not_come_to_a_collective_is_named() -> None:
    line = verdict(records({rank: {"0": (0, 42, 41) if rank != 2 else (0, 41, 41)} for rank in range(4)}))
    assert line == (
        "rank 2 stands behind: in group 0_DESC it has come to collective 41 and completed 41, ranks 0, 1, 3 came to 42; "
        "it has not begun number 42 (nccl:all_reduce_42)"
    )


def test_a_rank_that_waits_for_another_is_not_to_blame() -> None:
    # 1 is late in the group of all, since it waits for 3 in the group "tp"; 3 waits for nobody. Numbers of groups differ by rank.
    line = verdict(
        records(
            {
                0: {"0": (0, 7, 6), "left": (1, 9, 9)},
                1: {"0": (0, 6, 6), "tp": (1, 5, 4)},
                2: {"0": (0, 7, 6), "left": (1, 9, 9)},
                3: {"0": (0, 6, 6), "tp": (2, 4, 4)},
            }
        )
    )
    assert line.startswith("rank 3 stands behind: ")


def test_a_rank_that_waits_for_a_message_is_not_to_blame() -> None:
    by_rank = {
        0: record({"0": (0, 7, 6)}),
        1: record({"0": (0, 6, 6)}, open_messages=1),
        2: record({"0": (0, 6, 6)}),
        3: record({"0": (0, 7, 6)}),
    }
    line = verdict({rank: read_record(content) for rank, content in by_rank.items()})  # type: ignore[misc]
    assert line.startswith("rank 2 stands behind: ")


def test_a_rank_without_a_record_is_named_first() -> None:
    line = verdict(records({rank: {"0": (0, 42, 41)} for rank in (0, 1, 3)}))
    assert line == "no record of rank 2, which was frozen or gone"


def test_where_all_enqueued_the_same_the_one_that_completed_least_is_named() -> None:
    line = verdict(records({rank: {"0": (0, 42, 42 if rank else 41)} for rank in range(4)}))
    assert line == "all ranks enqueued the same collectives; of group 0_DESC rank 0 completed least (41)"
    assert "the stacks say where they are" in verdict(records({rank: {"0": (0, 42, 42)} for rank in range(4)}))


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"{}", b"null", b"\xff", b"[" * 100_000, b'{"pg_status": {}, "pg_config": 5}', b'{"pg_status": {}, "pg_config": {"0": {"ranks": "[x]"}}}',
        b'{"pg_status": {}, "pg_config": {}, "entries": [{"process_group": 5, "pg_id": 0}]}', b'{"pg_status": {}, "pg_config": {}, "entries": 7}',
    ],
)  # fmt: skip
def test_what_is_no_flight_record_is_none(content: bytes) -> None:
    assert read_record(content) is None


def test_records_of_an_earlier_hang_and_of_a_run_that_went_on_are_left_out(tmp_path: Path) -> None:
    assert hang(tmp_path) is None
    logs = tmp_path / "logs"
    logs.mkdir()
    for rank in range(4):
        (logs / COLLECTIVES_FILE.format(rank)).write_bytes(record({"0": (0, 42 - (rank == 2), 41)}))
    line = hang(tmp_path)
    assert line is not None and line.startswith("rank 2 stands behind")
    old = (logs / COLLECTIVES_FILE.format(3)).stat().st_mtime - 3600
    os.utime(logs / COLLECTIVES_FILE.format(3), (old, old))
    line = hang(tmp_path)
    assert line is not None and line.startswith("no record of rank 3, which was frozen or gone; rank 2 stands behind")
    (logs / COLLECTIVES_FILE.format(2)).write_bytes(b"torn")
    line = hang(tmp_path)
    assert line is not None and line.startswith("no record of ranks 2, 3")
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("{}\n")
    assert hang(tmp_path) is not None, "written as the run hung"
    os.utime(metrics, (old + 7300, old + 7300))
    assert hang(tmp_path) is None
