"""Stretches of steps that a run trained with one configuration, laid one behind the other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fanal.errors import DamageError
from fanal.run_progress import NEW_RUN, Standing
from pretrain.config.schema import RunConfig
from pretrain.config.steps import consumed_samples_at, global_batch_size_at, last_step
from pretrain.history.evidence import Point


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Steps [first_step, end_step) of a run, counted from 1, which are samples [first_sample, end_sample)."""

    first_step: int
    end_step: int
    first_sample: int
    end_sample: int
    config: RunConfig
    known_from: str
    """The files that say so, from the run folder on."""
    start: int | None = None
    """Number of the start that trained them, or will; None where only checkpoints tell."""
    num_ranks: int | None = None
    """Ranks that trained them; None where only checkpoints tell."""
    has_steps: bool = True
    """False where the batch changed at a step that no file tells: its samples are known, and which step read each is not."""

    @property
    def since(self) -> Standing:
        """The point that it begins at."""
        return Standing(self.first_step - 1, self.first_sample)

    def samples_of_step(self, step: int) -> range:
        """Return the samples of one of its steps."""
        assert self.has_steps and self.first_step <= step < self.end_step, f"step {step} is not here"
        first = consumed_samples_at(self.config.train, step - 1, self.since)
        return range(first, first + global_batch_size_at(self.config.train, first))


def segments_of(
    starts: Sequence[Point], checkpoints: Callable[[], Sequence[Point]], *, last: Standing
) -> list[Segment]:
    """Lay out the steps of a run, from its first to the last one that it is to train.

    Args: starts, by their numbers; checkpoints, by rising step, which are only read where no start tells; last: the point that the
        run has come to as far as its newest checkpoint says, or its last start.
    Raises: DamageError if two starts contradict each other.
    """
    present = {start.start for start in starts}
    line = _line_of(starts)
    segments: list[Segment] = []
    before: Point | None = None
    for point in line:
        numbers = range(before.start or 0 if before is not None else 0, point.start or 0)
        missing = any(number not in present for number in numbers[1:])
        segments += _up_to(before, point, checkpoints, may_be_missing=missing)
        before = point
    if before is None or not _leads(before.config, before.standing, last):
        # An older run, or a last start whose file a full disk did not take.
        points = _behind(checkpoints(), before)
        segments += _between(points, before)
        before = points[-1]
    segments.append(_planned(before, last))
    return _joined([segment for segment in segments if segment.end_step > segment.first_step])


def _line_of(starts: Sequence[Point]) -> list[Point]:
    """Return the starts whose steps count: what was done behind the step that a later start goes on from is lost."""
    line: list[Point] = []
    for start in starts:
        line = [earlier for earlier in line if earlier.standing.step < start.standing.step]
        line.append(start)
    return line


def _up_to(
    before: Point | None, point: Point, checkpoints: Callable[[], Sequence[Point]], *, may_be_missing: bool
) -> list[Segment]:
    """The steps from one start, or from the first step, to where the next one goes on."""
    if not point.standing.step:
        return []
    if before is not None and _leads(before.config, before.standing, point.standing):
        return [_segment(before, before.standing, point.standing)]
    if before is not None and not may_be_missing:
        samples = consumed_samples_at(before.config.train, point.standing.step, before.standing)
        raise DamageError(
            f"{before.known_from} leads to {samples:,} samples after step {point.standing.step:,}, and {point.known_from} goes on "
            f"from {point.standing.consumed_samples:,}: one of the two comes from another run; copy both again"
        )
    told = [found for found in _behind(checkpoints(), before) if found.standing.step < point.standing.step]
    return _between([*told, point], before)


def _behind(points: Sequence[Point], before: Point | None) -> list[Point]:
    """The points behind a start, or all."""
    return [point for point in points if before is None or point.standing.step > before.standing.step]


def _between(points: Sequence[Point], before: Point | None) -> list[Segment]:
    """The steps from a start, or from the first step, to the last of these points: each stretch between two of them with the
    configuration whose batches lead from the one to the other."""
    segments = []
    since, config = (NEW_RUN, None) if before is None else (before.standing, before.config)
    for point in points:
        # A start's own configuration begins there; that of a checkpoint led to it.
        candidates = (config, point.config) if point.start is not None else (point.config, config)
        chosen = next(
            (found for found in candidates if found is not None and _leads(found, since, point.standing)), None
        )
        own = replace(point, start=None, num_ranks=None, config=chosen or config or point.config)
        segments.append(replace(_segment(own, since, point.standing), has_steps=chosen is not None))
        since, config = point.standing, point.config
    return segments


def _planned(point: Point, last: Standing) -> Segment:
    """The steps from a point to the end of its run."""
    train = point.config.train
    end = max(last_step(point.config.optim, train, last), last.step)
    return _segment(point, point.standing, Standing(end, consumed_samples_at(train, end, point.standing)))


def _leads(config: RunConfig, since: Standing, to: Standing) -> bool:
    """Whether the batches of a configuration lead from one point to another."""
    return consumed_samples_at(config.train, to.step, since) == to.consumed_samples


def _segment(point: Point, since: Standing, end: Standing) -> Segment:
    return Segment(
        first_step=since.step + 1,
        end_step=end.step + 1,
        first_sample=since.consumed_samples,
        end_sample=end.consumed_samples,
        config=point.config,
        known_from=point.known_from,
        start=point.start,
        num_ranks=point.num_ranks,
    )


def _joined(segments: Sequence[Segment]) -> list[Segment]:
    """Join neighbours of one configuration that only checkpoints tell of."""
    found: list[Segment] = []
    for segment in segments:
        before = found[-1] if found else None
        if (
            before is not None
            and before.start is None is segment.start
            and before.has_steps
            and segment.has_steps
            and before.config == segment.config
        ):
            found[-1] = replace(
                before, end_step=segment.end_step, end_sample=segment.end_sample, known_from=segment.known_from
            )
        else:
            found.append(segment)
    return found
