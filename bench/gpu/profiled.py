"""What torch.profiler saw, summed by name: CUDA kernels where they ran on a GPU, else operations."""

from dataclasses import dataclass
from typing import Any

from torch.profiler import ProfilerActivity


@dataclass
class Total:
    """All calls of one name."""

    seconds: float = 0.0
    calls: int = 0


def activities(*, on_gpu: bool) -> list[ProfilerActivity]:
    """Return what to watch."""
    return [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu


def totals(seen: Any, *, on_gpu: bool) -> dict[str, Total]:
    """Return a finished profile's own times by name, the longest first."""
    found: dict[str, Total] = {}
    for event in seen.events() or []:
        if event.device_type.name == ("CUDA" if on_gpu else "CPU"):
            total = found.setdefault(event.name, Total())
            total.seconds += (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6
            total.calls += 1
    return dict(sorted(found.items(), key=lambda item: -item[1].seconds))
