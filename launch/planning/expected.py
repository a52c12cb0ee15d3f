"""What the plan expects of a run as it trains now: its own layout, its batch of the moment, on the machine of its site.

Computed anew from the run's config, which takes milliseconds: a plan that was kept would stay behind when a machine's figures are
measured.
"""

from dataclasses import asdict, dataclass

from launch.planning.calibration import calibration_path
from launch.planning.place import machine_of_site
from launch.sites.schema import SiteConfig
from pretrain.config.schema import RunConfig
from pretrain.plan.batches import with_batch
from pretrain.plan.calibration import calibrated, read_calibration
from pretrain.plan.estimate import estimate_step, on_device_of
from pretrain.plan.times import validation_s


@dataclass(frozen=True, kw_only=True)
class Expected:
    """One step of a run, as planned."""

    machine: str
    num_ranks: int
    global_batch_size: int
    step_time_s: float
    parts_s: dict[str, float]
    """Seconds of a step by what they go into (pretrain/plan/times.py)."""
    tokens_per_second_per_gpu: float
    mfu_full: float
    """Share of the machine's peak, 0 to 1, attention counted in full."""
    mfu_causal: float
    validation_time_s: float
    """Seconds of one validation; 0 without one."""


def expected_step(
    run: RunConfig, site: SiteConfig, *, num_ranks: int, global_batch_size: int, site_name: str = ""
) -> Expected | None:
    """Return what is planned for a step of so many samples; None where the site names no machine.

    Args: site_name: as a chain was submitted with it; the calibration that is kept for it counts, if there is one.
    Raises: UserError if machine or calibration cannot be read, or the ranks or the batch do not fit the layout.
    """
    if not site.machine:
        return None
    machine = machine_of_site(site, site.description, site.machine)
    now = on_device_of(with_batch(run, global_batch_size), machine)
    kept = read_calibration(calibration_path(site=site_name, machine=site.machine), machine) if site_name else None
    if kept is not None:
        machine = calibrated(machine, kept.factors)
    estimate = estimate_step(now, machine, num_ranks)
    return Expected(
        machine=f"{site.machine}, calibrated" if kept is not None else site.machine, num_ranks=num_ranks,
        global_batch_size=global_batch_size, step_time_s=estimate.step_s,
        parts_s=asdict(estimate.times), tokens_per_second_per_gpu=estimate.tokens_per_second_per_gpu,
        mfu_full=estimate.mfu_full, mfu_causal=estimate.mfu_causal, validation_time_s=validation_s(now, estimate.step_s),
    )  # fmt: skip
