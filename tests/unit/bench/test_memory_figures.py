"""What ``bench.memory`` measures: the peak of an act, which is gone before the act ends."""

import subprocess
import sys

from bench.rehearsed import values_of

MIB = 1 << 20
ACT = """
import torch
from bench.memory import peak_of, resident
MIB = 1 << 20
torch.ones(256 * MIB, dtype=torch.uint8)  # a peak of before
start = resident("VmRSS")
print(peak_of(lambda: torch.ones(64 * MIB, dtype=torch.uint8)) - start, resident("VmRSS") - start)
"""


def test_a_peak_holds_what_was_freed_within_the_act_and_not_what_was_freed_before() -> None:
    # A process of its own, as in the benchmark: one that ran other tests has holes in its heap, and takes the act's memory from there.
    output = subprocess.run([sys.executable, "-c", ACT], capture_output=True, text=True, check=True).stdout
    peak, left = map(int, output.split())
    assert 60 * MIB < peak < 96 * MIB  # the kernel counts pages per core, and adds them up now and then
    assert left < 32 * MIB


def test_a_rehearsed_peak_is_found_wherever_it_stands() -> None:
    tree = {"layout": {"ranks": [{"peak_bytes": 3, "peak_parts": []}, {"peak_bytes": 5}]}}
    assert values_of("peak_bytes", tree) == [3, 5]
