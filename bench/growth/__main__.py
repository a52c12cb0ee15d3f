"""Measure every case at every size: `make bench-growth`, or CASES='...' for those with these words in their names."""

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import bench.growth
from bench.compare import append_result, table
from bench.growth.case import Growth, exponent
from bench.growth.measure import figures_of

RESULTS = Path(__file__).parents[1] / "results" / "growth.md"
LIMIT = 1.1
"""The largest exponent of work that is linear. Above it the command ends with code 1."""


def all_cases() -> Iterator[Growth]:
    """The ``CASES`` of every module of this package: a new file of cases is found by itself."""
    for module in sorted(module.name for module in pkgutil.iter_modules(bench.growth.__path__)):
        if module != "__main__":
            yield from getattr(importlib.import_module(f"bench.growth.{module}"), "CASES", ())


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="words of the names of cases; all when there are none")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    rows, above = [], []
    for case in all_cases():
        if given.names and not any(word in case.name for word in given.names):
            continue
        figures = figures_of(case)
        power = exponent(figures)
        above += [f"{case.name}: {power:.2f}"] * (power > LIMIT)
        for one in figures:
            counted = ", ".join(f"{number:,} {what}" for what, number in one.counted.items())
            last = f"{power:.2f}" if one is figures[-1] else ""
            memory = f"{one.memory_bytes / 2**20:,.1f}"
            rows.append([case.name, f"{one.size:,} {case.grows_with}", f"{one.time_s:.4g}", memory, counted, last])
    header = ["what", "size", "time, s", "memory, MiB", "counted", "exponent"]
    append_result(given.results, "What grows", table(header, rows))
    for line in above:
        print(f"grows faster than size^{LIMIT}: {line}", file=sys.stderr)
    return 1 if above else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
