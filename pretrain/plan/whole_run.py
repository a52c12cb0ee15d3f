"""A whole run in one layout: GPU hours, days and jobs, checkpoints against quotas, passes over the text, energy.

What a site would have to say is None, with the reason, where nobody said it.
"""

from dataclasses import dataclass, replace

from fanal.errors import FanalError, UserError
from fanal.free_space import Free
from fanal.run_progress import NEW_RUN
from fanal.shown import on_one_line
from pretrain.config.rules import LARGEST_SAMPLE
from pretrain.config.schema import RunConfig
from pretrain.config.steps import last_step, step_at, train_samples
from pretrain.data.passes import SourcePasses, passes_warning, source_passes
from pretrain.data.sources import open_sources
from pretrain.model.families.sizes import checkpoint_bytes
from pretrain.optim.registry import num_states
from pretrain.plan.batches import BatchSpeed, batch_speeds
from pretrain.plan.energy import Boundary, EnergyFacts, boundaries
from pretrain.plan.estimate import StepEstimate
from pretrain.plan.machine import FigureConfig, MachineConfig
from pretrain.plan.retention import checkpoint_inodes, most_at_once, room_for, saved_steps, what_fits
from pretrain.plan.slots import Jobs, Slot, check_slot, jobs_of
from pretrain.plan.times import validation_s

FAILURES = FigureConfig(
    value=0.02,
    source="Llama team, The Llama 3 Herd of Models, 2024 (arXiv:2407.21783), 3.3.4: 419 unexpected interruptions in 54 days of "
    "16,384 H100",
)
"""Failures that end a job, in 1,000 GPU hours."""


@dataclass(frozen=True, kw_only=True)
class Disk:
    """A file system that a run folder may lie on, as a site describes it."""

    name: str
    quota_bytes: int | None
    quota_files: int | None
    write_gb_per_s: FigureConfig | None
    holds_run: bool
    """Whether the run folder of the config lies on it."""


@dataclass(frozen=True, kw_only=True)
class SiteFacts:
    """What a plan takes of a site."""

    name: str
    gpus_per_node: int
    slot_h: float | None
    """Hours of a job; None if neither the site nor anybody says."""
    longest_h: float | None
    """The most that the site allows; None if it says none."""
    slot_name: str
    """What says the length of a job: ``--slice-hours`` or a QoS."""
    stop_margin_s: float
    start_up_s: FigureConfig | None
    preflight_s: FigureConfig | None
    disks: tuple[Disk, ...]
    energy: EnergyFacts


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """The checkpoints of a run when there are most of them."""

    num_bytes: int
    """Of one."""
    num_files: int
    """Files and folders of one."""
    most: int
    write_s: float | None
    """Least seconds to write one; None if no rate is known."""


@dataclass(frozen=True, kw_only=True)
class DiskFit:
    """Whether the checkpoints fit a quota that is otherwise unused."""

    disk: Disk
    fits: int
    """Checkpoints that have room."""
    advice: str
    """What fits if they do not; empty if they do."""


@dataclass(frozen=True, kw_only=True)
class WholeRun:
    """What a whole run takes, in one layout."""

    estimate: StepEstimate
    is_own: bool
    """Whether the layout is the config's own."""
    steps: int
    tokens: int
    training_s: float
    """Of all steps."""
    validation_s: float
    waiting_s: float
    """For checkpoints that the training waits for."""
    slot: Slot | None
    slot_name: str
    """What says how long a job is: ``--slice-hours`` or a QoS; empty without a slot."""
    jobs: Jobs | None
    no_jobs: str
    """Why there are none; empty if there are."""
    failures_per_1000_gpu_hours: FigureConfig
    checkpoints: Checkpoints
    disks: tuple[DiskFit, ...]
    no_disks: str
    batches: tuple[BatchSpeed, ...]
    sources: tuple[SourcePasses, ...]
    no_sources: str
    boundaries: tuple[Boundary, ...]
    warnings: tuple[str, ...]

    @property
    def work_s(self) -> float:
        """Seconds of training, with validations and waits for checkpoints."""
        return self.training_s + self.validation_s + self.waiting_s

    @property
    def elapsed_s(self) -> float:
        """Seconds of all jobs; of the training alone where the jobs are not known."""
        return self.work_s if self.jobs is None else self.jobs.elapsed_s

    @property
    def gpu_hours(self) -> float:
        """Hours of all jobs times their GPUs."""
        return self.elapsed_s / 3600 * self.estimate.num_gpus


def with_tokens(run: RunConfig, tokens: int | None) -> RunConfig:
    """Return the run with as many steps as so many tokens need. Raises: UserError if they are none."""
    if tokens is None:
        return run
    if tokens < 1:
        raise UserError(f"--tokens ({tokens}) must be at least 1; --tokens 1000000000 works")
    most = LARGEST_SAMPLE * run.data.seq_length
    if tokens > most:
        raise UserError(
            f"--tokens ({tokens}) must be at most {most:,}, which are {LARGEST_SAMPLE:,} samples; --tokens {most} works"
        )
    steps = step_at(run.train, -(-tokens // run.data.seq_length))
    return replace(run, train=replace(run.train, train_steps=steps))


def failure_rate(asked: float | None) -> FigureConfig:
    """Return the failures in 1,000 GPU hours. Raises: UserError if they are negative or no number."""
    if asked is None:
        return FAILURES
    if not 0 <= asked < float("inf"):
        raise UserError(
            f"--failures-per-1000-gpu-hours ({asked:g}) must be 0 or more and finite; "
            f"--failures-per-1000-gpu-hours {FAILURES.value:g} works"
        )
    return FigureConfig(value=asked, source="--failures-per-1000-gpu-hours")


def whole_run(
    estimate: StepEstimate,
    machine: MachineConfig,
    facts: SiteFacts | None,
    *,
    failures: FigureConfig,
    is_own: bool = False,
) -> WholeRun:
    """Return what a run takes in the layout of an estimate.

    Args: facts: None without a site. Raises: UserError if a job of the site has no time for a step.
    """
    run = estimate.run
    steps = last_step(run.optim, run.train)
    batches = batch_speeds(estimate, machine)
    training_s = sum(one.steps * one.step_s for one in batches)
    checkpoints = _checkpoints(run, estimate.num_gpus, facts)
    saves = saved_steps(run, after=0)
    num_saves = max(0, -(-(saves.stop - saves.start) // saves.step))
    waiting_s = 0.0 if run.checkpoint.asynchronous else num_saves * (checkpoints.write_s or 0.0)
    validations_s = _num_validations(run, steps) * validation_s(run, estimate.step_s)
    work_s = training_s + validations_s + waiting_s
    slot, no_jobs = _slot(facts, checkpoints)
    jobs = None
    if slot is not None and facts is not None:
        check_slot(slot, step_s=max(one.step_s for one in batches), asked=facts.slot_name, longest_h=facts.longest_h)
        interval = run.checkpoint.interval
        jobs = jobs_of(
            work_s,
            slot,
            failures_per_s=failures.value / 1000 * estimate.num_gpus / 3600,
            interval_s=None if interval is None else interval * work_s / steps,
        )
    elapsed_s = work_s if jobs is None else jobs.elapsed_s
    gpu_hours = elapsed_s / 3600 * estimate.num_gpus
    disks, no_disks = _disks(run, estimate.num_gpus, checkpoints, facts)
    sources, no_sources, remark = _sources(run)
    return WholeRun(
        estimate=estimate, is_own=is_own, steps=steps,
        tokens=train_samples(run.optim, run.train) * run.data.seq_length, training_s=training_s, validation_s=validations_s,
        waiting_s=waiting_s, slot=slot,
        slot_name=facts.slot_name if facts is not None and slot is not None else "",
        jobs=jobs, no_jobs=no_jobs, failures_per_1000_gpu_hours=failures,
        checkpoints=checkpoints, disks=disks, no_disks=no_disks, batches=batches, sources=sources, no_sources=no_sources,
        boundaries=boundaries(
            gpu_hours=gpu_hours,
            node_hours=None if facts is None else gpu_hours / facts.gpus_per_node,
            watts=machine.watts,
            facts=None if facts is None else facts.energy,
        ),
        warnings=tuple(_warnings(run, slot, checkpoints, disks, training_s / steps if steps else 0.0, remark)),
    )  # fmt: skip


def _num_validations(run: RunConfig, steps: int) -> int:
    interval = run.train.validation_interval
    return 1 if interval is None else -(-steps // interval)  # the last step has one in any case


def _checkpoints(run: RunConfig, num_gpus: int, facts: SiteFacts | None) -> Checkpoints:
    size = checkpoint_bytes(run.model, num_states=num_states(run.optim))
    rates = [disk.write_gb_per_s.value for disk in _possible(facts) if disk.write_gb_per_s is not None]
    return Checkpoints(
        num_bytes=size,
        num_files=checkpoint_inodes(run, num_ranks=num_gpus)[0],
        most=most_at_once(run, ()),
        write_s=size / (max(rates) * 1e9) if rates else None,
    )


def _possible(facts: SiteFacts | None) -> tuple[Disk, ...]:
    """Return the disk that the run folder lies on, or where none is known to, all that it may lie on."""
    disks = facts.disks if facts is not None else ()
    return tuple(disk for disk in disks if disk.holds_run) or disks


def _slot(facts: SiteFacts | None, checkpoints: Checkpoints) -> tuple[Slot | None, str]:
    if facts is None:
        return None, "no --site"
    if facts.slot_h is None:
        return None, f"site {facts.name} states no qos; --slice-hours says how long a job is"
    start = sum(figure.value for figure in (facts.start_up_s, facts.preflight_s) if figure is not None)
    save = 0.0 if checkpoints.write_s is None else checkpoints.write_s
    return Slot(length_s=facts.slot_h * 3600, stop_margin_s=facts.stop_margin_s, start_s=start, save_s=save), ""


def _disks(
    run: RunConfig, num_gpus: int, checkpoints: Checkpoints, facts: SiteFacts | None
) -> tuple[tuple[DiskFit, ...], str]:
    if facts is None:
        return (), "no --site"
    found = []
    for disk in _possible(facts):
        if disk.quota_bytes is None and disk.quota_files is None:
            continue
        files, while_written = checkpoint_inodes(run, num_ranks=num_gpus)
        room = Free(
            checkpoints.num_bytes * checkpoints.most if disk.quota_bytes is None else disk.quota_bytes, disk.quota_files
        )
        fits = room_for(room, size=checkpoints.num_bytes, files=files, notes=while_written - files)
        advice = "" if fits >= checkpoints.most else what_fits(run, (), fits)
        found.append(DiskFit(disk=disk, fits=fits, advice=advice))
    return tuple(found), "" if found else f"site {facts.name} states no quota of a disk that the run may lie on"


def _sources(run: RunConfig) -> tuple[tuple[SourcePasses, ...], str, str | None]:
    """Return (sources, why there are none, warning about those that are read too often)."""
    try:
        sources = open_sources(run)
    except (FanalError, OSError) as error:
        return (), on_one_line(str(error)), None
    return tuple(source_passes(run, sources, NEW_RUN)), "", passes_warning(run, sources, NEW_RUN)


def _warnings(
    run: RunConfig,
    slot: Slot | None,
    checkpoints: Checkpoints,
    disks: tuple[DiskFit, ...],
    step_s: float,
    remark: str | None,
) -> list[str]:
    found = [on_one_line(remark)] if remark is not None else []
    for fit in disks:
        if fit.advice and fit.disk.holds_run:
            found.append(
                f"warning: {fit.disk.name} has room for {fit.fits:,} of {checkpoints.most:,} checkpoints, its quota otherwise "
                f"unused; {fit.advice}"
            )
    if slot is not None and slot.save_s > slot.stop_margin_s:
        found.append(
            f"warning: a checkpoint takes at least {slot.save_s:,.0f} s, and a job of the site is told to stop "
            f"{slot.stop_margin_s:,.0f} s before its end; --stop-margin-s {int(slot.save_s) + 1} of fanal launch works"
        )
    interval = run.checkpoint.interval
    if checkpoints.write_s is not None and interval is not None and checkpoints.write_s > interval * step_s:
        found.append(
            f"warning: a checkpoint takes at least {checkpoints.write_s:,.0f} s, longer than the {interval * step_s:,.0f} s "
            f"between two (checkpoint.interval={interval}); checkpoint.interval={int(checkpoints.write_s / step_s) + 1} works"
        )
    return found
