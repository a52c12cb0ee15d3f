"""What ``bench.memory`` measures: the peak of an act, which is gone before the act ends."""

import torch

from bench.memory import peak_of, resident
from bench.rehearsed import values_of

MIB = 1 << 20


def test_a_peak_holds_what_was_freed_within_the_act_and_not_what_was_freed_before() -> None:
    torch.ones(256 * MIB, dtype=torch.uint8)  # a peak of before
    start = resident("VmRSS")
    peak = peak_of(lambda: torch.ones(64 * MIB, dtype=torch.uint8)) - start
    assert 60 * MIB < peak < 96 * MIB  # the kernel counts pages per core, and adds them up now and then
    assert resident("VmRSS") - start < 32 * MIB


def test_a_rehearsed_peak_is_found_wherever_it_stands() -> None:
    tree = {"layout": {"ranks": [{"peak_bytes": 3, "peak_parts": []}, {"peak_bytes": 5}]}}
    assert values_of("peak_bytes", tree) == [3, 5]
