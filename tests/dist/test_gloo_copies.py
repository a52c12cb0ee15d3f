"""What gloo copies in a collective is what a rehearsal of CPU ranks counts."""

from pathlib import Path

from tests.dist.gloo_copies import WHOLE_BYTES, asked


def differ(measured: dict[str, int], counted: dict[str, int]) -> set[str]:
    """Gloo copies all of the whole tensor or nothing: what is taken for the other is off by all of it."""
    return {name for name, taken in measured.items() if abs(taken - counted[name]) > 0.15 * WHOLE_BYTES}


def test_a_rehearsal_of_cpu_ranks_counts_the_copies_that_gloo_makes(tmp_path: Path) -> None:
    measured, counted = asked("measure", tmp_path), asked("count", tmp_path)
    assert not differ(measured, counted), f"taken {measured}, counted {counted}"
    uncounted = differ(measured, dict.fromkeys(measured, 0))
    assert uncounted == {name for name in measured if name.startswith(("reduce_scatter", "all_gather"))}
