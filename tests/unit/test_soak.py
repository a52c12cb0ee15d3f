"""What a soak calls flat: planted leaks are found, and what comes and goes is none."""

import mmap
import os
import random
from dataclasses import replace

import pytest

from bench.soak import Look, Sample, growth, look_at

RANK, WRITER = (10, "rank"), (11, "writer")
MIB = 1 << 20


def samples(leak: str | None = None, amount: float = 0.0, *, count: int = 300) -> list[Sample]:
    """Looks at a rank and its writer every ten steps: memory warms up and trembles, a save opens files for a moment.

    Args: leak: what grows, by ``amount`` a look."""
    found, chance = [], random.Random(3)
    for number in range(count):
        warm = 60 * MIB * min(1.0, 4 * number / count)
        rank = Look(
            private_bytes=int(300 * MIB + warm + chance.uniform(-2, 2) * MIB), shared_bytes=20 * MIB,
            descriptors=104 + 3 * (number % 10 == 0), threads=61 - (number == 150),
        )  # fmt: skip
        if leak not in (None, "processes"):
            rank = replace(rank, **{leak: int(getattr(rank, leak) + amount * number)})  # type: ignore[arg-type]
        processes = {RANK: rank, WRITER: Look(private_bytes=10 * MIB, shared_bytes=0, descriptors=4, threads=1)}
        if leak == "processes" and number > 2 * count // 3:
            processes[99, "rank"] = rank
        found.append(Sample(step=10 * number, processes=processes))
    return found


def test_a_run_that_warms_up_and_trembles_is_flat() -> None:
    assert growth(samples()) == []


@pytest.mark.parametrize(
    ("leak", "amount", "named"),
    [
        ("private_bytes", 64 << 10, "private_bytes of rank: 3"),
        ("shared_bytes", 64 << 10, "shared_bytes of rank: 2"),
        ("descriptors", 0.1, "descriptors of rank: 119 to 129"),
        ("threads", 0.1, "threads of rank: 75 to 85"),
        ("processes", 0, "processes: 2 to 3"),
    ],
)
def test_a_planted_leak_is_named(leak: str, amount: float, named: str) -> None:
    (found,) = growth(samples(leak, amount))
    assert found.startswith(named)


def test_a_process_and_its_child_are_looked_at_as_they_are() -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(read, 1)
        os._exit(0)
    try:
        before = look_at(os.getpid())
        assert {os.getpid(), child} <= {pid for pid, _ in before}  # and what other tests have left
        kept = [open(os.devnull) for _ in range(5)]  # noqa: PTH123, SIM115
        held = mmap.mmap(-1, 32 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # new, whatever others have freed
        held.write(b"x" * len(held))
        after = look_at(os.getpid())
        (mine,) = [process for process in after if process[0] == os.getpid()]
        assert after[mine].descriptors == before[mine].descriptors + 5
        assert after[mine].private_bytes - before[mine].private_bytes > 24 * MIB and held
        for stream in kept:
            stream.close()
    finally:
        os.write(write, b"x")
        os.waitpid(child, 0)
        os.close(read)
        os.close(write)
