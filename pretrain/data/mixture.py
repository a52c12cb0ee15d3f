"""Mixtures that follow each other: sample number -> source and draw, over all phases of a run.

In each phase a blend numbers the samples of its sources from 0; a cursor, the samples the source gave in earlier phases, is
added. So a source goes on where it stood, even after a pause, and repeats no chunk within an epoch. All of it follows from
the configuration and the sample's number.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pretrain.data.blend import Blend


@dataclass(frozen=True, kw_only=True)
class Phase:
    """The mixture from one sample on, until the next phase starts."""

    start_sample: int
    members: tuple[int, ...]
    """Its sources, by their number in the run."""
    weights: tuple[float, ...]
    """One per member; only the ratios matter."""


class Mixture:
    """All phases of a run."""

    def __init__(self, phases: Sequence[Phase], *, num_sources: int, seed: int) -> None:
        """``phases`` by rising start_sample, the first at 0; their members are below ``num_sources``."""
        assert phases and phases[0].start_sample == 0, "the first phase starts at sample 0"
        self.phases = list(phases)
        self.num_sources = num_sources
        self._starts = np.array([phase.start_sample for phase in phases], np.int64)
        self._members = [np.array(phase.members, np.int64) for phase in phases]
        self._blends = [Blend(phase.weights, f"{seed}/{phase.start_sample}") for phase in phases]
        self._cursors = [np.zeros(num_sources, np.int64)]  # at the start of each phase, as far as they were needed

    def locate(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(source, draw within that source) of each sample number.

        The samples before any number hold exactly the first draws of each source.

        Args: int64 [n]. Returns: two int64 [n].
        """
        of_phase = np.searchsorted(self._starts, samples, side="right") - 1
        sources, draws = np.empty(len(samples), np.int64), np.empty(len(samples), np.int64)
        for phase in np.unique(of_phase).tolist():
            here = np.flatnonzero(of_phase == phase)
            member, draw = self._blends[phase].locate(samples[here] - self._starts[phase])
            sources[here] = self._members[phase][member]
            draws[here] = draw + self._cursor(phase)[sources[here]]
        return sources, draws

    def samples_of(self, source: int, draws: np.ndarray) -> np.ndarray:
        """Return the sample number of each draw of one source: ``locate`` backwards. A draw that no phase comes to has -1.

        Args: draws: int64 [n], not negative, in any order. Returns: int64 [n].
        """
        found = np.full(len(draws), -1, np.int64)
        last = len(self.phases) - 1
        for phase, members in enumerate(self._members):
            place = np.flatnonzero(members == source)
            if not place.size:
                continue
            begin = int(self._cursor(phase)[source])
            end = int(self._cursor(phase + 1)[source]) if phase < last else None
            here = np.flatnonzero((draws >= begin) & (draws < end if end is not None else True))
            if here.size:
                samples = self._blends[phase].samples_of(int(place[0]), draws[here] - begin)
                found[here] = samples + self._starts[phase]
        return found

    def drawn(self, sample: int) -> np.ndarray:
        """Count the samples before number ``sample`` that come from each source: int64 [num_sources]."""
        phase = int(np.searchsorted(self._starts, sample, side="right")) - 1
        return self._after(phase, sample)

    def _cursor(self, phase: int) -> np.ndarray:
        """Samples each source gave in all phases before this one: int64 [num_sources]."""
        while len(cursors := self._cursors) <= phase:  # one read: another thread may replace the list
            last = len(cursors) - 1
            self._cursors = [*cursors, self._after(last, int(self._starts[last + 1]))]
        return cursors[phase]

    def _after(self, phase: int, sample: int) -> np.ndarray:
        counts = self._cursor(phase).copy()
        counts[self._members[phase]] += self._blends[phase].drawn(sample - int(self._starts[phase]))
        return counts
