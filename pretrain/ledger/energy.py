"""The energy of a chain of runs, each share with the method that measured it, and CO2 by a factor that the user gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fanal.json_lines import read_lines
from fanal.run_folder import JOBS_FILE, LAUNCH_DIR
from pretrain.ledger.slurm_energy import jobs_energy
from pretrain.ledger.starts import Attempt
from pretrain.log.energy_file import RAPL, read_energy

JOULES_PER_KWH = 3.6e6
SLURM = "Slurm accounting (sacct, ConsumedEnergyRaw of the job)"
SLURM_STEPS = "Slurm accounting (sacct, ConsumedEnergyRaw of the job's steps together)"


@dataclass(frozen=True, kw_only=True)
class EnergyShare:
    """What was measured of one job, or of one start outside of jobs."""

    run_dir: str
    job: str | None
    starts: tuple[int | None, ...]
    joules: float
    method: str


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Energy of all shares together."""

    shares: tuple[EnergyShare, ...]
    joules: float | None
    """None where nothing was measured."""
    methods: tuple[str, ...]
    without: int
    """Starts of which nothing was measured: the sum lacks theirs."""
    slurm_problem: str | None
    """Why Slurm's accounts say nothing."""
    co2_g: float | None
    co2_g_per_kwh: float | None
    """The factor that the user gave."""

    @property
    def kwh(self) -> float | None:
        """The same in kilowatt hours."""
        return None if self.joules is None else self.joules / JOULES_PER_KWH


def energy_of(runs: Sequence[tuple[Path, Sequence[Attempt]]], *, co2_g_per_kwh: float | None) -> Energy:
    """Return the energy of these runs' starts: of a job once, by Slurm's accounts where they know it, else by RAPL's counters."""
    by_job: dict[str, tuple[Path, list[Attempt]]] = {}
    alone: list[tuple[Path, str | None, list[Attempt]]] = []
    for run_dir, attempts in runs:
        for attempt in attempts:
            job = None if attempt.file is None else attempt.file.job
            if job is None:
                alone.append((run_dir, None, [attempt]))
            else:
                by_job.setdefault(job, (run_dir, []))[1].append(attempt)
        without_file = [attempt for attempt in attempts if attempt.file is None]
        if without_file:
            for job in jobs_noted(run_dir):  # of an older run: which start was which job is not known
                by_job.setdefault(job, (run_dir, without_file))
    accounts, problem = jobs_energy(list(by_job))
    shares: list[EnergyShare] = []
    measured: set[int] = set()
    for job, (run_dir, attempts) in by_job.items():
        account = accounts.get(job)
        if account is None or account.joules is None:
            alone.extend((run_dir, job, [attempt]) for attempt in attempts if attempt.file is not None)
            continue
        method = SLURM_STEPS if account.from_steps else SLURM
        numbers = tuple(attempt.number for attempt in attempts)
        shares.append(EnergyShare(run_dir=str(run_dir), job=job, starts=numbers, joules=account.joules, method=method))
        measured |= {id(attempt) for attempt in attempts}
    for run_dir, job, (attempt,) in alone:
        joules = None if attempt.number is None else read_energy(run_dir, attempt.number)
        if joules is not None:
            shares.append(
                EnergyShare(run_dir=str(run_dir), job=job, starts=(attempt.number,), joules=joules, method=RAPL)
            )
            measured.add(id(attempt))
    if problem is None and by_job and not any(share.job for share in shares if share.method != RAPL):
        problem = "sacct knows the jobs and no energy of them (AcctGatherEnergyType of the cluster)"
    joules = sum(share.joules for share in shares) if shares else None
    return Energy(
        shares=tuple(shares),
        joules=joules,
        methods=tuple(dict.fromkeys(share.method for share in shares)),
        without=sum(id(attempt) not in measured for _, attempts in runs for attempt in attempts),
        slurm_problem=problem,
        co2_g=None if joules is None or co2_g_per_kwh is None else joules / JOULES_PER_KWH * co2_g_per_kwh,
        co2_g_per_kwh=co2_g_per_kwh,
    )


def jobs_noted(run_dir: Path) -> list[str]:
    """Jobs that started a run, as its launch folder notes them, each once."""
    noted = read_lines(run_dir / LAUNCH_DIR / JOBS_FILE)
    jobs = (record.get("job") for record in noted if record.get("event") == "started")
    return list(dict.fromkeys(job for job in jobs if isinstance(job, str)))
