"""The head of a report: what run it is, how far it is, and its figures at a glance."""

from collections.abc import Iterator

from fanal.fields import is_losses
from pretrain.log.summary import duration
from pretrain.report.markup import Markup, element, name
from pretrain.report.quantities import count, figure, finite, loss, percent, when
from pretrain.report.view import RunView

Fact = tuple[str, str, str | None]
"""Label, value, and what else to say."""
MAX_DOMAINS = 4
"""Domains whose losses are figures of their own."""


def head_parts(view: RunView) -> Iterator[Markup]:
    """Yield title, state and figures."""
    yield element("h1", name(view.name))
    headline = view.log.newest_start.get("headline")
    if headline:
        yield element("p", name(headline))
    yield element("p", state(view))
    yield element(
        "dl",
        [
            element("div", element("dt", label), element("dd", value, element("small", more) if more else None))
            for label, value, more in facts(view)
        ],
        class_="cards",
    )


def state(view: RunView) -> str:
    """Return how far the run is, in a sentence."""
    newest = view.log.starts[-1] if view.log.starts else None
    end = newest.end if newest is not None else None
    last = view.log.last_step
    step = max(last["step"] if last else 0, end["step"] if end else 0)
    planned = view.train_steps
    where = f"step {step:,}" + (f" of {planned:,}" if planned else "")
    if end is not None and end.get("outcome") == "finished":
        return f"Finished: {where}."
    if end is not None:
        asked = end.get("asked_by")
        return f"Stopped on request{f' ({asked})' if asked else ''}: {where}."
    seen = newest.ended_unix_s if newest is not None else None
    return f"Training, or cut off: {where}{f'; last line at {when(seen)}' if seen else ''}."


def facts(view: RunView) -> Iterator[Fact]:
    """Yield the figures of a run."""
    log = view.log
    first, last = log.first_step, log.last_step
    if first is not None and last is not None:
        yield "steps", f"{last['step']:,}", None
        yield "tokens trained", count(finite(last.get("consumed_tokens")) or 0), None
        yield "training loss", loss(last.get("loss")), f"step {first['step']:,}: {loss(first.get('loss'))}"
        yield "learning rate", figure(finite(last.get("learning_rate")), 3), None
    if log.last_validation is not None and log.first_validation is not None:
        before, after = (
            found["validation_loss"] if is_losses(found.get("validation_loss")) else {}
            for found in (log.first_validation, log.last_validation)
        )
        for domain, value in list(after.items())[:MAX_DOMAINS]:
            yield f"validation loss, {domain}", loss(value), f"first: {loss(before.get(domain))}"
    if log.num_steps:
        yield "tokens a second", figure(log.pace.value()), "median, all ranks"
    if log.steps.get("mfu_full") and log.steps["mfu_full"].count:
        yield "MFU", percent(log.utilization.value()), "median, full attention"
    yield "running time", duration(log.running_s), None
    yield "starts", f"{log.num_starts:,}", f"{log.lost_steps:,} steps lost" if log.lost_steps else None
    if view.spikes.num_listed:
        yield "steps that went wrong", f"{view.spikes.num_listed:,}", f"{view.spikes.num_skipped:,} skipped"
    if view.ledger is not None:
        yield "goodput", percent(view.ledger.hours.goodput), None
        if view.ledger.energy.kwh is not None:
            yield "energy", f"{figure(view.ledger.energy.kwh)} kWh", None
