"""Watch over how often a run has read its sources so far: arithmetic on the samples that were consumed."""

import numpy as np

from pretrain.config.schema import RunConfig
from pretrain.data.mixture import Mixture
from pretrain.data.passes import HARMLESS_PASSES, NAMED
from pretrain.data.sources import Sources

FIRST = HARMLESS_PASSES
"""Passes after which the first line comes; each further line after twice as many. So a source of one sample, which begins a pass
with each that it gives, has a line or two a run and not one a step."""
LATE = 64
"""A line may come late by a 64th of the samples so far, so that a run looks a few hundred times, however many sources pass."""


class PassWatch:
    """Says once when a source was read FIRST times and is begun again, and once each time that this number has doubled."""

    def __init__(self, run: RunConfig, sources: Sources, consumed_samples: int) -> None:
        """Args: consumed_samples: where this start goes on: what was passed before then is not said again."""
        self._mixture = Mixture(sources.phases, num_sources=len(sources.train), seed=run.data.seed)
        self._prefixes = [str(source.shard.prefix) for source in sources.train]
        self._chunks = np.array([source.order.chunks_per_epoch for source in sources.train], np.int64)
        self._passes = np.full(len(self._chunks), FIRST, np.int64)
        """Passes after which each source is named next."""
        self._not_before = 0
        self._passed(consumed_samples)

    def line(self, *, step: int, consumed_samples: int) -> str | None:
        """Return the line after a step; None if no source has come so far: nearly always after one comparison of integers."""
        if consumed_samples < self._not_before:
            return None
        passed = self._passed(consumed_samples)
        if not passed:
            return None
        named = ", ".join(f"{self._prefixes[source]} {passes:,} times" for source, passes in passed[:NAMED])
        more = f" and {len(passed) - NAMED:,} more sources" if len(passed) > NAMED else ""
        return (
            f"warning: by step {step} the run has read {named}{more}, and reads them again; beyond about {FIRST} passes a repeated "
            "token teaches less and less, and beyond 16 hardly anything"
        )

    def _passed(self, consumed_samples: int) -> list[tuple[int, int]]:
        """Return (source, passes) of those that have come to their number, the most read first, and double the number."""
        drawn, found = self._mixture.drawn(consumed_samples), dict[int, int]()
        while len(passed := np.flatnonzero(drawn > self._passes * self._chunks)):
            found.update(zip(passed.tolist(), self._passes[passed].tolist(), strict=True))
            self._passes[passed] *= 2
        # A sample is of one source: no source can pass its number before as many samples as it lacks.
        lacking = int((self._passes * self._chunks - drawn).min())
        self._not_before = consumed_samples + max(lacking + 1, consumed_samples // LATE)
        return sorted(found.items(), key=lambda pair: -pair[1])
