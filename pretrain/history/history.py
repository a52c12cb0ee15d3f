"""The history of a run: which samples each step read, and which step reads each sample, past and to come."""

from bisect import bisect_right
from dataclasses import dataclass, replace
from pathlib import Path

from fanal.errors import UserError, user_path
from fanal.records import record_of
from fanal.run_folder import checkpoints_dir
from fanal.run_progress import Standing, newest_metrics
from pretrain.checkpoint.disk.manifest import DamagedCheckpointError
from pretrain.checkpoint.disk.origin import Origin, sealed_hash
from pretrain.config.steps import step_at
from pretrain.history.evidence import Newest, intact_checkpoints, newest_of, point_of_start, points_of_checkpoints
from pretrain.history.segments import Segment, segments_of
from pretrain.log.start_file import StartFile, read_starts


@dataclass(frozen=True, kw_only=True)
class History:
    """One run, as a phase of a chain or alone."""

    run_dir: Path
    segments: tuple[Segment, ...]
    """All of its steps, in order, without a gap; those that are lost are not among them."""
    starts: tuple[StartFile, ...]
    """The files of its starts, by number; none of an older run."""
    newest: Newest | None
    """Its newest intact checkpoint."""
    trained_to: int
    """Last step that it is known to have trained."""
    origin: Origin | None
    """The checkpoint of another run that it started from."""
    before: tuple["History", ...] = ()
    """The runs of ``origin`` and of those before it, oldest first, as far as their folders are there: each ends with the step
    that the next one went on from."""
    missing: Origin | None = None
    """The youngest origin whose run is not there any more, or is no run: nothing is known of it and those before it."""

    @property
    def phases(self) -> tuple["History", ...]:
        """The runs of the chain, oldest first, this one last."""
        return (*self.before, self)

    @property
    def planned_to(self) -> int:
        """Last step that it is to train."""
        return self.segments[-1].end_step - 1

    @property
    def end_sample(self) -> int:
        """First sample that it will not train on."""
        return self.segments[-1].end_sample

    @property
    def saved_to(self) -> int:
        """Step of its newest checkpoint; 0 if it has none."""
        return self.newest.standing.step if self.newest is not None else 0

    def segment_of_step(self, step: int) -> Segment:
        """Return the segment that holds a step. Raises: UserError if the run has no such step."""
        if not 1 <= step <= self.planned_to:
            raise UserError(
                f"--step ({step}) must be from 1 to {self.planned_to}, the last step of {self.run_dir}; --step "
                f"{self.trained_to or 1} works"
            )
        return self.segments[bisect_right(self.segments, step, key=lambda segment: segment.first_step) - 1]

    def samples_of_step(self, step: int) -> range:
        """Return the samples that a step reads. Raises: UserError if the run has no such step, or if no file tells."""
        segment = self.segment_of_step(step)
        if not segment.has_steps:
            raise UserError(
                f"--step ({step}) must be outside of steps {segment.first_step} to {segment.end_step - 1} of {self.run_dir}: "
                f"the batch size changed between them, at a step that no checkpoint tells; --step {segment.end_step} works"
            )
        return segment.samples_of_step(step)

    def step_of_sample(self, sample: int) -> int | None:
        """Return the step that reads a sample; None if none does, or if no file tells which."""
        if not 0 <= sample < self.end_sample:
            return None
        segment = self.segments[bisect_right(self.segments, sample, key=lambda segment: segment.first_sample) - 1]
        return step_at(segment.config.train, sample + 1, segment.since) if segment.has_steps else None


def history_of(run_dir: str | Path, *, chain: bool = True) -> History:
    """Return the history of a run, from the files of its starts, or where it has none from its checkpoints.

    Args: chain: whether the runs that it started from are looked up.
    Raises: UserError if it is the folder of no run that has begun; DamageError if its files were altered, or contradict each other.
    """
    folder = Path(run_dir)
    with user_path(folder):
        starts = read_starts(folder)
        checkpoints = intact_checkpoints(folder)
    if not starts and not checkpoints:
        raise UserError(
            f"RUN_DIR ({run_dir}) must be the folder of a run that has begun, with starts/ or checkpoints/ in it, and it "
            f"{'has neither' if folder.is_dir() else 'is no folder'}; runs/tiny works once that run has begun"
        )
    newest = newest_of(checkpoints[-1]) if checkpoints else None
    points = [point_of_start(start, folder) for start in starts]
    last = _last(points[-1].standing if points else None, newest)
    segments = segments_of(points, lambda: points_of_checkpoints(checkpoints, folder), last=last)
    origin = _origin(starts, newest)
    before, missing = _earlier(origin) if chain else ((), None)
    return History(
        run_dir=folder,
        segments=tuple(segments),
        starts=tuple(starts),
        newest=newest,
        trained_to=_trained_to(folder, starts, last),
        origin=origin,
        before=before,
        missing=missing,
    )


def _last(start: Standing | None, newest: Newest | None) -> Standing:
    """Return the farthest point that counts: a start that goes on from before the newest checkpoint is older than it."""
    found = newest.standing if newest is not None else None
    if start is None or (found is not None and found.step >= start.step):
        assert found is not None, "a run has starts or checkpoints"
        return found
    return start


def _trained_to(run_dir: Path, starts: list[StartFile], last: Standing) -> int:
    """Return the last step that is known to be trained: that of the newest point, or of a later record of the last start."""
    for record in newest_metrics(run_dir, kinds=("step",)):
        of_last = not starts or record.get("start") == starts[-1].number
        step = record.get("step")
        return max(last.step, step) if of_last and isinstance(step, int) else last.step
    return last.step


def _origin(starts: list[StartFile], newest: Newest | None) -> Origin | None:
    if newest is not None:
        return newest.origin
    found = starts[-1].origin
    return record_of(Origin, found) if found is not None else None


def _earlier(origin: Origin | None) -> tuple[tuple[History, ...], Origin | None]:
    """Return the runs of an origin and of those before it, oldest first, and the origin at which they end unknown."""
    found: list[History] = []
    while origin is not None:
        run_dir = _run_of(origin)
        if run_dir is None:
            return tuple(found[::-1]), origin
        found.append(until(history_of(run_dir, chain=False), origin.step))
        origin = origin.origin
    return tuple(found[::-1]), None


def _run_of(origin: Origin) -> Path | None:
    """Return the folder of the run that an origin's checkpoint is of; None if it is not there, or is no run's."""
    folder = Path(origin.checkpoint)
    run_dir = folder.parent.parent
    if origin.data is None or origin.average is not None or folder.parent != checkpoints_dir(run_dir):
        return None
    if folder.is_dir():
        try:
            return run_dir if sealed_hash(folder) == origin.manifest_sha256 else None
        except DamagedCheckpointError:
            return None
    # Its own run may have deleted it since; of another run in its place nothing tells, but its steps.
    return run_dir if (run_dir / "starts").is_dir() else None


def until(history: History, step: int) -> History:
    """Return a history that ends with a step which it has trained. The runs before it stay as they are."""
    segments = [segment for segment in history.segments if segment.first_step <= step]
    last = segments[-1]
    if last.has_steps and last.end_step > step + 1:
        end = last.samples_of_step(step).stop
        segments[-1] = replace(last, end_step=step + 1, end_sample=end)
    return replace(history, segments=tuple(segments), trained_to=min(history.trained_to, step))
