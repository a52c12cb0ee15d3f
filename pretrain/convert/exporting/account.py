"""What the ledger of a checkpoint's run says, for the model card: what the steps up to the checkpoint read, and what the run cost.

An export that has no ledger is an export all the same: then the reason is kept for whoever exports.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fanal.errors import FanalError, UserError
from fanal.run_folder import checkpoints_dir
from pretrain.convert.ours.source import ExportSource
from pretrain.history.history import History, history_of, until
from pretrain.ledger.data_read import DataRead, data_read, trained_samples
from pretrain.ledger.energy import Energy, energy_of
from pretrain.ledger.hours import Hours, hours_in_all
from pretrain.ledger.ledger import RunAccount, account_of
from pretrain.ledger.models import flops_of, model_of

DIMENSIONS = ("language", "licence")
"""What the card groups documents by. Hosts are not among them: memory would grow with their number."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What the runs of a chain cost, the last of them up to its last step and not only up to the checkpoint."""

    runs: tuple[RunAccount, ...]
    """Oldest first."""
    hours: Hours
    energy: Energy
    flops: float
    """Operations of the steps up to the checkpoint, where every position attends to every other."""

    @property
    def last_step(self) -> int:
        """Last step of the last run."""
        return self.runs[-1].trained_to

    @property
    def devices(self) -> list[str]:
        """Devices of each start, such as "8 x NVIDIA H200", each once."""
        starts = (start for run in self.runs for start in run.starts)
        found = (f"{count} x {name}" for start in starts for name, count in (start.devices or {}).items())
        return list(dict.fromkeys(found))


@dataclass(frozen=True, kw_only=True)
class Account:
    """The account of a checkpoint. Each part is None where it is not known."""

    step: int
    data: DataRead | None = None
    costs: Costs | None = None
    lacks_earlier: bool = False
    """Whether the first run that is counted began with weights of another one, which is not."""
    problems: tuple[str, ...] = ()
    """Why a part is not known, for whoever exports: a message may hold paths."""


def account_for(source: ExportSource, *, co2_g_per_kwh: float | None = None) -> Account:
    """Account for the run of a checkpoint. Reads its folder and log, and of its shards indexes and columns.

    An import, an average, and a checkpoint before the first step have no account.
    """
    step = source.state.step
    if source.run is None or source.average is not None or not step:
        return Account(step=step)
    problems: list[str] = []
    history: History | None = None
    costs: Costs | None = None
    data: DataRead | None = None
    with _noted(problems):
        history = _history_of(source)
        costs = _costs(history, step, co2_g_per_kwh)
    if history is not None and source.sources is not None:
        with _noted(problems):
            data = data_read(until(history, step).phases, dimensions=DIMENSIONS)
    lacks = history is None or history.missing is not None
    return Account(step=step, data=data, costs=costs, lacks_earlier=lacks, problems=tuple(problems))


def _history_of(source: ExportSource) -> History:
    """Return the history of the run that a checkpoint lies in. Raises: UserError if it is none that leads to this checkpoint."""
    run_dir, step = source.folder.parent.parent, source.state.step
    if source.folder.parent != checkpoints_dir(run_dir):
        raise UserError(f"{source.folder} is not in the folder of its run")
    history = history_of(run_dir)
    samples = trained_samples(until(history, step))
    if history.trained_to < step or samples != source.state.consumed_samples:
        raise UserError(
            f"{run_dir} has read {samples:,} samples by step {min(step, history.trained_to):,}, and the checkpoint "
            f"{source.state.consumed_samples:,} by step {step:,}: it is no point of the run as its folder tells it"
        )
    return history


def _costs(history: History, step: int, co2_g_per_kwh: float | None) -> Costs:
    accounts = [account_of(phase) for phase in history.phases]
    runs = [(phase.run_dir, account.starts) for phase, account in zip(history.phases, accounts, strict=True)]
    return Costs(
        runs=tuple(accounts),
        hours=hours_in_all(hours for account in accounts for hours in account.as_hours()),
        energy=energy_of(runs, co2_g_per_kwh=co2_g_per_kwh),
        flops=sum(_flops(phase) for phase in until(history, step).phases),
    )


def _flops(phase: History) -> float:
    tokens = trained_samples(phase) * phase.segments[-1].config.data.seq_length
    return flops_of(model_of(phase), tokens=tokens, lost_tokens=None).full


@contextmanager
def _noted(problems: list[str]) -> Iterator[None]:
    """Keep why a part of the account is not known, and go on without it."""
    try:
        yield
    except FanalError as problem:
        problems.append(str(problem))
