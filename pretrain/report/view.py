"""Everything that a report shows of one run, gathered once; what cannot be told is a sentence, and its section is left out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from fanal.errors import FanalError, UserError
from fanal.fields import is_count
from fanal.run_folder import METRICS_FILE, checkpoints_dir
from pretrain.checkpoint.disk.retention import bad_in, checkpoints_in
from pretrain.config.schema import RunConfig
from pretrain.data.read import TrainData
from pretrain.history.data import open_history_data
from pretrain.history.history import History, history_of
from pretrain.history.moved import Moved, with_moved
from pretrain.ledger.data_read import trained_samples
from pretrain.ledger.ledger import Ledger, ledger_of_history
from pretrain.log.evaluation_file import EvaluationFile, read_evaluations
from pretrain.log.start_file import StartFile, read_starts
from pretrain.report.read_log import RunLog, read_log
from pretrain.report.spikes import Spikes, read_spikes

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RunView:
    """One run, as far as its folder tells."""

    run_dir: Path
    log: RunLog
    spikes: Spikes
    starts: dict[int, StartFile]
    """Files of its starts, by number; none of an older run."""
    history: History | None
    data: TrainData | None
    """Its shards, where they are still those that it was trained on."""
    trained_samples: int
    """Samples of the steps that count; 0 where nothing tells."""
    ledger: Ledger | None
    checkpoints: list[str]
    """Names of the checkpoints on the disk, newest first."""
    set_aside: list[str]
    """Names of those that were found damaged."""
    evaluations: list[EvaluationFile] = field(default_factory=list)
    """Evaluations of its checkpoints, in the order of their numbers."""
    untold: list[str] = field(default_factory=list)
    """What could not be told, and why."""

    @property
    def name(self) -> str:
        """Name of the run: that of its folder."""
        return self.run_dir.name or self.run_dir.resolve().name

    @property
    def config(self) -> RunConfig | None:
        """Its last configuration; None where nothing tells."""
        return self.history.segments[-1].config if self.history is not None else None

    @property
    def train_steps(self) -> int | None:
        """Last step that it is to train."""
        if self.history is not None:
            return self.history.planned_to
        planned = (self.log.decays[-1] if self.log.decays else self.log.newest_start).get("train_steps")
        return planned if is_count(planned) else None


def view_of(
    run_dir: str | Path, *, moved: Sequence[Moved] = (), may_be_unused: bool = False, co2_g_per_kwh: float | None = None
) -> RunView:
    """Gather what a report shows. One pass over the log, of which only bounded parts are kept; the ledger makes its own.

    Args: moved: where its data lie now; may_be_unused: whether that may be said of data of other runs alone;
        co2_g_per_kwh: the user's factor for CO2.
    Raises: UserError if it is the folder of no run that has begun, or for a place that none of its data has moved to.
    """
    folder = Path(run_dir)
    untold: list[str] = []

    def told(what: str, find: Callable[[], T]) -> T | None:
        try:
            return find()
        except (FanalError, OSError) as error:
            untold.append(f"{what}: {error}")
            return None

    log = read_log(folder)
    starts = told("the files of its starts", lambda: read_starts(folder)) or []
    history = told("the history of its steps", lambda: history_of(folder))
    if not log.num_records and history is None:
        raise UserError(
            f"RUN_DIR ({run_dir}) must be the folder of a run that has begun, with {METRICS_FILE} in it, and it "
            f"{'has none' if folder.is_dir() else 'is no folder'}; runs/tiny works once that run has begun"
        )
    history = None if history is None else with_moved(history, moved, may_be_unused=may_be_unused)
    data = None if history is None else told("its mixture", lambda: open_history_data(history))
    samples = None if history is None else told("its mixture", lambda: trained_samples(history))
    ledger = (
        None
        if history is None
        else told("goodput and energy", lambda: ledger_of_history(history, co2_g_per_kwh=co2_g_per_kwh))
    )
    return RunView(
        run_dir=folder,
        log=log,
        spikes=read_spikes(folder, log, data),
        starts={start.number: start for start in starts},
        history=history,
        data=data,
        trained_samples=samples or 0,
        ledger=ledger,
        checkpoints=[path.name for path in checkpoints_in(checkpoints_dir(folder))],
        set_aside=[path.name for path in bad_in(checkpoints_dir(folder))],
        evaluations=told("its evaluations", lambda: read_evaluations(folder)) or [],
        untold=list(dict.fromkeys(untold)),
    )
