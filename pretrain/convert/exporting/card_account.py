"""What a run's ledger says, as parts of the model card: documents by language and licence, cost, and metadata of the hub."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from fanal.shown import on_one_line
from pretrain.convert.exporting.account import Account, Costs
from pretrain.convert.exporting.markdown import as_text, table
from pretrain.ledger.data_read import SOURCE
from pretrain.ledger.hours import Hours
from pretrain.ledger.tally import Amount

MOST_ROWS = 50
"""Rows of a table; of more, the largest, and the others together."""
NOT_KNOWN = "not known"
TO_BE_STATED = "to be stated by the provider"
"""The words of each blank, of the card as of every draft."""


def languages_read(account: Account) -> list[str] | None:
    """Return the languages of the documents that were read, as they say themselves or their shards; None where not counted."""
    if account.data is None:
        return None
    found = account.data.in_all["language"]
    return [name for name, amount in found.items() if name is not None and amount.tokens]


def emissions(account: Account) -> dict[str, str | float] | None:
    """Return the hub's ``co2_eq_emissions``; None unless the CO2 of just this checkpoint is known.

    Source: https://huggingface.co/docs/hub/model-cards-co2.
    """
    costs = account.costs
    if costs is None or costs.energy.co2_g is None or costs.last_step != account.step or account.lacks_earlier:
        return None
    lacks = f"; {costs.energy.without} starts were not measured" if costs.energy.without else ""
    source = (
        f"{costs.energy.kwh:.4g} kWh by {' and '.join(costs.energy.methods)}{lacks}; "
        f"{costs.energy.co2_g_per_kwh:g} g/kWh, as stated at the export"
    )
    return {
        "emissions": float(f"{costs.energy.co2_g:.6g}"),
        "source": source,
        "training_type": "pre-training",
        "geographical_location": TO_BE_STATED,
        "hardware_used": ", ".join(costs.devices) or TO_BE_STATED,
    }


def documents_section(account: Account) -> str:
    """Return what was read by language and licence, and over several runs by source; empty if the checkpoint has no account."""
    if account.data is None:
        if account.costs is None and not account.problems:
            return ""
        return (
            "## Documents\n\nNot counted by language and licence: the run's shards, or what its folder says of its steps, were not "
            "at hand when this card was made.\n"
        )
    tokens = sum(part.tokens for part in account.data.parts)
    runs = len(dict.fromkeys(part.run_dir for part in account.data.parts))
    of = "of this run" if runs == 1 else f"of {runs} runs, of which each began with the last one's weights"
    lacks = (
        " What the weights that the first of them began with were trained on is not counted."
        if account.lacks_earlier
        else ""
    )
    parts = [
        f"## Documents\n\nCounted over the samples {of}, up to this checkpoint: {tokens:,} tokens.{lacks} A document was read if "
        "one of its tokens was; passes are tokens read by tokens there to be read. From `data.in_all` of the run's ledger "
        "(`fanal ledger --json`) up to this step.\n"
    ]
    sources = [(SOURCE, "source")] if runs > 1 else []
    for dimension, title in (*sources, ("language", "language"), ("licence", "licence")):
        amounts = account.data.in_all[dimension]
        names = {name: Path(name).name if dimension == SOURCE and name else name for name in amounts}
        parts.append(
            _amounts(title, [(names[name], amount) for name, amount in amounts.items() if amount.tokens], tokens)
        )
    return "\n".join(parts)


def _amounts(title: str, amounts: list[tuple[str | None, Amount]], tokens: int) -> str:
    rows = [
        ("not stated" if name is None else as_text(name), *_figures([amount], tokens))
        for name, amount in amounts[:MOST_ROWS]
    ]
    if rest := [amount for _, amount in amounts[MOST_ROWS:]]:
        rows.append((f"{len(rest):,} more", *_figures(rest, tokens)))
    return table((title, "documents", "tokens", "share", "passes"), rows)


def _figures(amounts: Iterable[Amount], tokens: int) -> tuple[str, ...]:
    found = list(amounts)
    read, there = sum(each.tokens for each in found), sum(each.available_tokens for each in found)
    share, passes = f"{read / tokens:.2%}" if tokens else "-", f"{read / there:.2f}" if there else "-"
    return f"{sum(each.documents for each in found):,}", f"{read:,}", share, passes


def costs_section(account: Account) -> str:
    """Return hours, operations, energy and CO2; empty if the checkpoint has no account."""
    costs = account.costs
    if costs is None:
        return ""
    rows = list(_cost_rows(account, costs))
    lacks = " What came before the first run that is counted is not in it." if account.lacks_earlier else ""
    intro = f"From `runs`, `rank_hours` and `energy` of the run's ledger (`fanal ledger --json`).{lacks}\n"
    return f"## Cost\n\n{intro}\n" + table(("", ""), rows)


def _cost_rows(account: Account, costs: Costs) -> Iterator[tuple[str, str]]:
    if len(costs.runs) > 1:
        yield "runs", f"{len(costs.runs):,}, of which each began with the last one's weights"
    if costs.last_step != account.step:
        yield "counted to", f"step {costs.last_step:,} of the run; this checkpoint is of step {account.step:,}"
    starts = [start for run in costs.runs for start in run.starts]
    lost = sum(run.lost_steps for run in costs.runs)
    yield "starts", f"{len(starts):,}; {lost:,} steps were trained and lost" if starts else NOT_KNOWN
    yield (
        "operations",
        f"{costs.flops:.3g} up to this checkpoint: 6 for each weight and token, and attention of all to all",
    )
    files = [start.file for start in starts if start.file is not None]
    is_gpu = bool(files) and len(files) == len(starts) and {file.device_type for file in files} == {"cuda"}
    yield "GPU hours" if is_gpu else "hours of ranks", _hours(costs.hours) if starts else NOT_KNOWN
    if devices := costs.devices:
        yield "devices", ", ".join(map(as_text, devices))
    energy = costs.energy
    if energy.kwh is None:
        yield "energy", NOT_KNOWN
    else:
        lacks = f"; {energy.without:,} starts were not measured" if energy.without else ""
        yield "energy", f"{energy.kwh:.4g} kWh by {as_text(' and '.join(energy.methods))}{lacks}"
    if energy.co2_g is None:
        yield "CO2", NOT_KNOWN
    else:
        yield "CO2", f"{energy.co2_g / 1000:.4g} kg at {energy.co2_g_per_kwh:g} g/kWh, as stated at the export"


def _hours(hours: Hours) -> str:
    if hours.total is None:
        return f"{hours.useful:.4g} of steps that count; {NOT_KNOWN} in all"
    named: Mapping[str, float | None] = {
        "useful": hours.useful, "start-up": hours.startup, "lost": hours.lost, "evaluation": hours.evaluation, "save": hours.save,
        "other": hours.other,
    }  # fmt: skip
    shares = ", ".join(
        f"{name} {value / hours.total:.1%}" for name, value in named.items() if value is not None and hours.total
    )
    return f"{hours.total:.4g}" + (f": {shares}" if shares else "")


def warnings(account: Account) -> list[str]:
    """Return lines for whoever exports on what the card lacks."""
    return [
        f"warning: the card lacks figures of the run's ledger: {on_one_line(problem)}" for problem in account.problems
    ]
