"""Choice of the quality of service that takes the requested hours, and of the number of jobs."""

import math

from fanal.errors import UserError
from launch.sites.schema import QosConfig, SiteConfig

MAX_HOURS, MAX_SLICES = 100_000, 1_000
"""Largest values taken; more is a slip of the hand: ten years, and jobs that a scheduler would rather not see at once."""


def slices_of(
    site: SiteConfig, site_name: str, *, hours: float | None, slice_hours: float | None, qos: str | None, num_gpus: int
) -> tuple[str, int, int]:
    """Return (QoS to name in the script, minutes of a slice, number of slices).

    Args: as the options of the same names give them, None where they are left out.
    Raises: UserError naming the option, its value, the rule and what works.
    """
    hours = check_hours(hours, site.default_walltime_minutes)
    longest = min([hours, *(one.max_hours for one in site.qos if qos in (None, one.name))][:2])
    check_slice_hours(slice_hours, works=longest)
    chosen, of_a_job = choose_qos(
        site.qos, qos, hours=hours, slice_hours=slice_hours, num_gpus=num_gpus, where=site_name
    )
    if hours / of_a_job - 1e-9 > MAX_SLICES:
        longest = min(hours, chosen.max_hours) if chosen else hours
        if hours / longest <= MAX_SLICES:
            works = f"--slice-hours {longest:g} works"
        else:
            works = f"--hours {longest * MAX_SLICES:g} works" + (
                "" if slice_hours is None else f" with --slice-hours {longest:g}"
            )
        raise UserError(
            f"--hours ({hours:g}) in jobs of {of_a_job:g} h would be {hours / of_a_job:,.0f} jobs, and must not be more than "
            f"{MAX_SLICES:,}; {works}"
        )
    slices = math.ceil(hours / of_a_job - 1e-9)
    # Slices of equal length: a shorter job waits less. Slurm counts in minutes.
    minutes = max(1, math.ceil(hours / slices * 60 - 1e-6))
    return chosen.name if chosen else "", minutes, slices


def check_slice_hours(slice_hours: float | None, *, works: float) -> None:
    """Refuse hours of a job that are none or no number. Args: works: those that the refusal advises."""
    if slice_hours is not None and not 0 < slice_hours < math.inf:
        raise UserError(f"--slice-hours ({slice_hours}) must be above 0 and finite; --slice-hours {works:g} works")


def choose_qos(
    offered: list[QosConfig], wanted: str | None, *, hours: float, slice_hours: float | None, num_gpus: int, where: str
) -> tuple[QosConfig | None, float]:
    """Choose a quality of service, and the hours of one job under it. The first is the default, and may become a chain.

    Raises: UserError naming the limit that does not fit, and a QoS that does.
    """
    if not offered:
        if wanted:
            return QosConfig(name=wanted, max_hours=hours), min(hours, slice_hours or hours)
        return None, min(hours, slice_hours or hours)
    chosen = next((qos for qos in offered if qos.name == wanted), None) if wanted else offered[0]
    if chosen is None:
        raise UserError(f"--qos ({wanted}) is not one of {where}; it has: {', '.join(qos.name for qos in offered)}")
    wide = [qos for qos in offered if takes(qos, num_gpus)]
    if chosen not in wide:
        raise UserError(_not_so_many(chosen, offered, wide, num_gpus))
    of_a_job = slice_hours if slice_hours is not None else (min(hours, chosen.max_hours) if chosen.chain else hours)
    if of_a_job > chosen.max_hours:
        asked = f"--slice-hours ({slice_hours:g})" if slice_hours is not None else f"--hours ({hours:g})"
        raise UserError(
            f"{asked} must not be above the {chosen.max_hours:g} h that qos {chosen.name} allows a job; "
            + _what_works(chosen, wide, hours=hours, slice_hours=slice_hours)
        )
    if of_a_job < hours and not chosen.chain:
        raise UserError(
            f"--slice-hours ({slice_hours:g}) must not cut --hours ({hours:g}) into a chain of jobs in qos {chosen.name}, which "
            f"is for single jobs; {_what_works(chosen, wide, hours=hours, slice_hours=slice_hours)}"
        )
    return chosen, min(of_a_job, hours)


def takes(qos: QosConfig, num_gpus: int) -> bool:
    """Whether a QoS takes jobs of so many GPUs. None are asked for by CPU work, which no least number is meant for."""
    return (num_gpus == 0 or qos.min_gpus <= num_gpus) and (qos.max_gpus is None or num_gpus <= qos.max_gpus)


def _not_so_many(chosen: QosConfig, offered: list[QosConfig], wide: list[QosConfig], num_gpus: int) -> str:
    """Return what to say where a QoS does not take so many GPUs, with one that does."""
    most = max(qos.max_gpus or 0 for qos in offered)
    works = f"--qos {wide[0].name} works" if wide else f"{most} GPUs are the most here"
    if num_gpus < chosen.min_gpus:
        works = works if wide else f"{chosen.min_gpus} GPUs work"
        return f"{num_gpus} GPUs are fewer than the {chosen.min_gpus} that qos {chosen.name} is for; {works}"
    return f"{num_gpus} GPUs are more than the {chosen.max_gpus} that qos {chosen.name} allows; {works}"


def queue_of(offered: list[QosConfig], qos: str, partition: str) -> tuple[str, str]:
    """Return (partition, QoS) that a script names for a chosen QoS: of one that is a partition, the partition alone.

    Args: partition, the site's, for all others.
    """
    own = next((one.partition for one in offered if one.name == qos), "")
    return (own, "") if own else (partition, qos)


def _what_works(chosen: QosConfig, wide: list[QosConfig], *, hours: float, slice_hours: float | None) -> str:
    """Suggest another QoS, of those wide enough for the GPUs, or other hours."""
    of_a_job = hours if slice_hours is None else slice_hours
    others = [qos for qos in wide if qos is not chosen]
    fitting = [qos for qos in others if of_a_job <= qos.max_hours and (qos.chain or hours <= of_a_job)]
    fitting += [qos for qos in others if qos.chain and slice_hours is None]
    if fitting:
        return f"--qos {fitting[0].name} fits"
    if slice_hours is None:
        return f"--hours {chosen.max_hours:g} works"
    longest = min(hours, chosen.max_hours)
    return f"--slice-hours {longest:g} works" + (
        "" if chosen.chain or hours <= longest else f" with --hours {longest:g}"
    )


def check_hours(hours: float | None, default_walltime_minutes: float | None) -> float:
    """Return the requested hours once they are checked.

    Raises: UserError if there are none, or they are not a number above 0.
    """
    if hours is None:
        default = f"a job that asks for none gets {default_walltime_minutes:g} minutes" if default_walltime_minutes else (
            "a job that asks for none gets the site's default, often minutes"
        )  # fmt: skip
        raise UserError(f"--hours must say how long to run: {default}; --hours 20 works")
    if not 0 < hours < math.inf:
        raise UserError(f"--hours ({hours}) must be above 0 and finite; --hours 20 works")
    if hours > MAX_HOURS:
        raise UserError(f"--hours ({hours:g}) must not be above {MAX_HOURS:,}, more than ten years; --hours 1000 works")
    return hours
