"""What a run cost, as drafts print it: time, hours of devices, operations, energy, CO2."""

from datetime import UTC, datetime

from pretrain.convert.exporting.markdown import as_text
from pretrain.drafts.facts import Facts
from pretrain.drafts.figures import Figure, in_range, rows, scientific

DAY_S, DAY_H = 86_400.0, 24.0
MONTH_DAYS = 30.44
"""Days of a mean month."""
TRAINING_TIMES = (
    (1 * MONTH_DAYS, "Less than 1 month"),
    (3 * MONTH_DAYS, "1 to 3 months"),
    (6 * MONTH_DAYS, "3 to 6 months"),
)
LONGEST_TIME = "More than 6 months"
SYSTEMIC_FLOPS = 1e25
"""Operations above which the AI Act, Art. 51(2), presumes high-impact capabilities."""


def wall_clock(facts: Facts) -> Figure | None:
    """Days on the clock, all starts one behind the other."""
    elapsed_s = facts.at("ledger elapsed_s")
    if elapsed_s is None:
        return None
    days = elapsed_s / DAY_S
    return Figure(
        text=f"{in_range(days, TRAINING_TIMES, LONGEST_TIME)}: {scientific(days)} wall-clock days",
        where=("ledger elapsed_s",),
        how="all starts, from command to last line, one behind the other, without what lies between them; lost steps are in it",
    )


def hardware_days(facts: Facts) -> Figure | None:
    """Days of devices, by their kind; None where the hours of one are not known."""
    found = facts.at("ledger rank_hours_by_device")
    if not found or any(part["hours"] is None or part["device"] is None for part in found):
        return None
    cells = [(as_text(part["device"]), scientific(part["hours"] / DAY_H)) for part in found]
    return Figure(
        text=rows(("device", "hardware-days"), cells),
        where=("ledger rank_hours_by_device[].device", "ledger rank_hours_by_device[].hours"),
        how="one rank is one device; hours divided by 24",
    )


def period(facts: Facts) -> Figure | None:
    """The first and the last day of training, by the wall clock of the nodes (UTC)."""
    begins = [time for time in facts.follow("ledger runs[].starts[].time_unix_s") if time is not None]
    ends = [time for time in facts.follow("ledger runs[].starts[].last_line_unix_s") if time is not None]
    if not begins:
        return None
    first, last = (datetime.fromtimestamp(time, UTC).date() for time in (min(begins), max(begins + ends)))
    return Figure(
        text=f"{first} to {last}",
        where=(
            "ledger runs[].starts[].time_unix_s",
            *(("ledger runs[].starts[].last_line_unix_s",) if ends else ()),
        ),
        how="earliest start and latest line, by the clocks of the nodes",
    )


def operations(facts: Facts) -> Figure:
    """Floating-point operations of the steps that the model is made of, by both conventions."""
    full, causal, lost = (facts.at(f"ledger flops.{key}") for key in ("full", "causal", "lost_full"))
    spent = "" if not lost else f"; steps that were trained and thrown away took {scientific(lost)} more (full)"
    return Figure(
        text=f"{scientific(full)} floating-point operations where every position attends to every other (full), "
        f"{scientific(causal)} with the causal half of attention{spent}",
        where=("ledger flops.full", "ledger flops.causal", *(("ledger flops.lost_full",) if lost else ())),
    )


def operations_method(facts: Facts) -> Figure:
    """How they were counted."""
    run = f"{facts.last_run}.model"
    full, causal = (facts.at(f"{run}.flops_per_token_{key}") for key in ("full", "causal"))
    return Figure(
        text="Arithmetic on the architecture: six operations for each weight of a matrix product and each token, the output layer "
        "included and the look-up of the embedding not, and those of attention scores and values; forward and backward, "
        f"without recomputation: {scientific(full)} (full) or {scientific(causal)} (causal) a token, times the tokens that "
        "training predicted (Chowdhery et al., 2022, appendix B; Narayanan et al., 2021, section 5.1)",
        where=(f"{run}.flops_per_token_full", f"{run}.flops_per_token_causal", "ledger runs[].tokens"),
        how="of the last run of the chain; each run by its own configuration",
    )


def energy(facts: Facts) -> Figure | None:
    """Energy in MWh; None where nothing was measured."""
    kwh, without = facts.at("ledger energy.kwh"), facts.at("ledger energy.starts_without")
    if kwh is None:
        return None
    least = f", measured; {without} start(s) were not, and are not in it" if without else ", measured"
    return Figure(
        text=f"{scientific(kwh / 1000)} MWh{least}",
        where=("ledger energy.kwh", "ledger energy.starts_without"),
        how="kilowatt hours divided by 1,000",
    )


def energy_lacks(facts: Facts) -> str:
    """What the provider has to add to the energy."""
    without = facts.at("ledger energy.starts_without")
    others = f"the energy of the {without} start(s) that were not measured; " if without else ""
    return (
        f"{others}what the measurement leaves out, such as cooling, network and storage, where the figure is to hold it"
    )


def energy_method(facts: Facts) -> Figure | None:
    """How it was measured."""
    methods = facts.at("ledger energy.methods")
    if not methods:
        return None
    return Figure(
        text="; ".join(map(as_text, methods))
        + ". Slurm's accounts are those of whole nodes, as the cluster measures them; RAPL counters are those of processor sockets "
        "and memory, from the moment a start was ready to train, and know nothing of GPUs; NVML counters are those of GPUs alone, "
        "from the same moment",
        where=("ledger energy.methods",),
    )


def co2(facts: Facts) -> Figure | None:
    """CO2 by the factor that was given; None without one."""
    grams, factor = facts.at("ledger energy.co2_g"), facts.at("ledger energy.co2_g_per_kwh")
    if grams is None:
        return None
    return Figure(
        text=f"{scientific(grams / 1e6)} t CO2 at {factor:g} g a kilowatt hour, a factor that was given and not measured",
        where=("ledger energy.co2_g", "ledger energy.co2_g_per_kwh"),
        how="grams divided by 1,000,000",
    )
