"""The memory that processes here may have: the machine's, or less where a cgroup limits it (a container, a Slurm job)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fanal.cgroups import groups_of, lines, number


@dataclass(frozen=True, kw_only=True)
class HostMemory:
    """Bytes of memory, swap space counted in."""

    total_bytes: int
    """What there can be at most, with nothing else running."""
    available_bytes: int
    """What is free now, or can be freed at once."""
    source: str
    """The file that states the limit."""


def host_memory(root: Path = Path("/")) -> HostMemory:
    """Read what the kernel says of the machine and of every cgroup that this process is in. Takes about a millisecond."""
    machine = root / "proc/meminfo"
    found = {name: value * 1024 for name, value in _table(machine)}
    swap, free_swap = found.get("SwapTotal", 0), found.get("SwapFree", 0)
    limits = [(found["MemTotal"] + swap, found["MemAvailable"] + free_swap, str(machine))]
    for folder in groups_of(root, "memory"):
        for limit_file, used_file in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, used = number(folder / limit_file), number(folder / used_file)
            if limit is None or used is None or limit >= found["MemTotal"]:
                continue
            cached = dict(_table(folder / "memory.stat"))  # files, which go when memory is needed
            total = "total_" if "total_inactive_file" in cached else ""  # of the groups inside it, in version 1
            files = cached.get(f"{total}inactive_file", 0) + cached.get(f"{total}active_file", 0)
            limits.append((limit + swap, limit - used + files + free_swap, str(folder / limit_file)))
    total_bytes, _, source = min(limits)
    return HostMemory(
        total_bytes=total_bytes, available_bytes=max(0, min(free for _, free, _ in limits)), source=source
    )


def _table(path: Path) -> Iterator[tuple[str, int]]:
    """Names and numbers, one pair a line."""
    for line in lines(path):
        name, value, *_ = [*line.replace(":", " ").split(), "", ""]
        if value.isdigit():
            yield name, int(value)
