"""Whether the device of a run computes in the precision that it trains in, or imitates it."""

from pathlib import Path
from typing import Literal

import torch

CPUINFO = Path("/proc/cpuinfo")
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Names in Linux's list of a CPU's features of the instructions that multiply in bf16; the last is ARM's."""


def imitated_precision(precision: Literal["bf16", "fp32"], device_type: str) -> str | None:
    """Return one line for people if this machine's device has no instructions for the precision, with what works.

    Returns: None if it has them, or if nothing says so.
    """
    if precision == "fp32":
        return None
    if device_type == "cuda":
        return None if torch.cuda.is_bf16_supported(including_emulation=False) else without_bf16("GPU", "far below")
    try:
        flags = cpu_flags(CPUINFO.read_text())
    except (OSError, ValueError):
        return None
    if not flags or flags & BF16_FLAGS:
        return None
    # Matrix products forward and backward, torch 2.13.0, one core: 1.3 times the time of fp32 through AVX-512, 17 to 20 without.
    return without_bf16("CPU", "no more than" if {"avx512f", "avx512bw"} <= flags else "a small part of")


def without_bf16(device: str, pace: str) -> str:
    """Return the line about a device that has no instructions for bf16."""
    return (
        f"warning: this {device} has no instructions for bf16, so train.precision=bf16 is imitated at {pace} the speed of fp32; "
        "train.precision=fp32 works"
    )


def cpu_flags(cpuinfo: str) -> frozenset[str]:
    """Return the features of the first CPU in the text of ``/proc/cpuinfo``; none if it does not list them."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):  # as x86 and ARM call them
            return frozenset(value.split())
    return frozenset()
