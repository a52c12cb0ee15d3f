"""The energy of a chain of runs, each share with the method that measured it, and CO2 by a factor that the user gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain.ledger.ended import noted
from pretrain.ledger.slurm_energy import jobs_energy
from pretrain.ledger.starts import Attempt
from pretrain.log.energy_file import read_energy

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
    """Return the energy of these runs' starts: of a job once, by Slurm's accounts where they know it, else by counters, of nodes
    (RAPL) and of GPUs (NVML)."""
    of_jobs = _by_job(runs)
    accounts, problem = jobs_energy(list(of_jobs))
    shares: list[EnergyShare] = []
    for job, (run_dir, attempts) in of_jobs.items():
        account = accounts.get(job)
        if account is not None and account.joules is not None:
            method = SLURM_STEPS if account.from_steps else SLURM
            numbers = tuple(attempt.number for attempt in attempts)
            shares.append(
                EnergyShare(run_dir=str(run_dir), job=job, starts=numbers, joules=account.joules, method=method)
            )
    if problem is None and of_jobs and not shares:
        problem = "sacct knows the jobs and no energy of them (AcctGatherEnergyType of the cluster)"
    measured, without = {share.job for share in shares}, 0
    for run_dir, attempts in runs:
        for attempt in attempts:
            jobs = [attempt.file.job] if attempt.file is not None else jobs_noted(run_dir)
            if jobs and all(job in measured for job in jobs):
                continue
            counted = {} if attempt.number is None else read_energy(run_dir, attempt.number)
            without += not counted
            job = attempt.file.job if attempt.file is not None else None
            for method, joules in counted.items():
                number = (attempt.number,)
                shares.append(EnergyShare(run_dir=str(run_dir), job=job, starts=number, joules=joules, method=method))
    joules = sum(share.joules for share in shares) if shares else None
    return Energy(
        shares=tuple(shares),
        joules=joules,
        methods=tuple(dict.fromkeys(share.method for share in shares)),
        without=without,
        slurm_problem=problem,
        co2_g=None if joules is None or co2_g_per_kwh is None else joules / JOULES_PER_KWH * co2_g_per_kwh,
        co2_g_per_kwh=co2_g_per_kwh,
    )


def _by_job(runs: Sequence[tuple[Path, Sequence[Attempt]]]) -> dict[str, tuple[Path, list[Attempt]]]:
    """The run and the starts of each job. Of an older run, which start was in which job is not known."""
    found: dict[str, tuple[Path, list[Attempt]]] = {}
    for run_dir, attempts in runs:
        for attempt in attempts:
            if attempt.file is None:
                for job in jobs_noted(run_dir):
                    found.setdefault(job, (run_dir, []))
            elif attempt.file.job is not None:
                found.setdefault(attempt.file.job, (run_dir, []))[1].append(attempt)
    return found


def jobs_noted(run_dir: Path) -> list[str]:
    """Jobs that started a run, as its launch folder notes them, each once."""
    jobs = (record.get("job") for record in noted(run_dir) if record.get("event") == "started")
    return list(dict.fromkeys(job for job in jobs if isinstance(job, str)))
