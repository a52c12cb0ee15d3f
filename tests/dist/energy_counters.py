"""Energy counters of a made machine, for real runs. Called in every rank before the run starts."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RANGE_UJ = 20_000_000
JOULES_PER_STEP = 1.0


def every_rank_writes_and_a_counter_begins_again() -> None:
    """Each step takes a joule, and behind three of them the counter of the only socket begins again at 0."""
    from pretrain.train import loop
    from tests.dist.reading_spies import every_rank_writes_what_it_trains_on

    every_rank_writes_what_it_trains_on()
    measured_energy, train_step = loop.measured_energy, loop.train_step

    @contextlib.contextmanager
    def of_made_counters(run_dir: str, *, start: int, device: Any) -> Iterator[None]:
        zone = _zone(run_dir)
        zone.mkdir(parents=True)
        for name, value in (
            ("name", "package-0"),
            ("max_energy_range_uj", RANGE_UJ),
            ("energy_uj", RANGE_UJ - 3_500_000),
        ):
            (zone / name).write_text(f"{value}\n")
        with measured_energy(run_dir, start=start, device=device, powercap=zone.parent):
            yield

    def heating(model: Any, optimizer: Any, micro_batches: Any, run: Any, world: Any, **kwargs: Any) -> Any:
        counter = _zone(run.run_dir) / "energy_uj"
        counter.write_text(f"{(int(counter.read_text()) + int(JOULES_PER_STEP * 1e6)) % RANGE_UJ}\n")
        return train_step(model, optimizer, micro_batches, run, world, **kwargs)

    loop.measured_energy, loop.train_step = of_made_counters, heating


def _zone(run_dir: str) -> Path:
    return Path(run_dir) / "powercap" / "intel-rapl:0"
