"""Text of a status, for users: one screen."""

from typing import Any

from rich.table import Table
from rich.text import Text

from fanal.console import Console, Group, RenderableType
from fanal.shown import on_one_line

SHOWN_ATTEMPTS = 8
Status = dict[str, Any]


def show(found: Status) -> None:
    """Print what ``launch.status.status`` found."""
    console = Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=200)  # a pipe has no width to fit
    console.print(drawn(found))


def drawn(found: Status) -> RenderableType:
    """Return the same for a console to print."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in lines(found):
        grid.add_row(Text(name, style="bold"), on_one_line(text))
    return Group(grid, _attempts(found["attempts"])) if found["attempts"] else grid


def lines(found: Status) -> list[tuple[str, str]]:
    """Yield (what, its figures); what is not known is left out."""
    rows = [("run", found["run_dir"]), ("state", _state(found)), ("step", _step(found))]
    if found["hang"] is not None:
        rows.append(("last hang", f"{found['hang']} (logs/stacks-rank-*.txt, logs/collectives-rank-*.json)"))
    if found["loss_step"] is not None:
        before = found["loss_before_step"]
        was = "" if before is None else f"; {_loss(found['loss_before_nats'])} after step {before:,}"
        rows.append(("training loss", f"{_loss(found['loss_nats'])} after step {found['loss_step']:,}{was}"))
    if found["validation_step"] is not None:
        losses = ", ".join(f"{domain} {_loss(loss)}" for domain, loss in found["validation_loss_nats"].items())
        rows.append(("validation loss", f"{losses} after step {found['validation_step']:,}"))
    if found["pace"] is not None:
        rows.append(("pace", _pace(found["pace"])))
    rows.extend(_plan(found))
    if found["eta_hours"] is not None and found["state"] != "finished":
        rows.append(("to go", _eta(found)))
    rows.append(("checkpoint", _checkpoint(found["checkpoint"])))
    if found["skipped_steps"] is not None:
        spikes = found["skipped_spikes"] or 0
        rows.append(("skipped steps", f"{found['skipped_steps']:,}, of these {spikes:,} spikes"))
    decision = found["last_decision"]
    if decision is not None:
        said = f"{decision['action']}: {decision['reason']}"
        rows.append(("last decision", f"{said} (job {decision['job']}, {decision['time_utc']})"))
        if decision.get("notice"):
            rows.append(("notice", decision["notice"]))
    if found["excluded_nodes"]:
        rows.append(("excluded nodes", ", ".join(found["excluded_nodes"])))
    rows.extend(_queue(found))
    return rows


def _state(found: Status) -> str:
    age = found["metrics_age_s"]
    wrote = "" if age is None else f"; last record {_ago(age / 3600)}"
    more = {
        "gone": ": its jobs are not in the queue any more, and none gave a reason; `fanal launch submit` continues the run",
        "unknown": ": no job of `fanal launch` trains it, and nothing says that it ended",
    }
    return found["state"] + more.get(found["state"], "") + wrote


def _step(found: Status) -> str:
    of = found["train_steps"]
    text = f"{found['step']:,}"
    if of and found["step"] <= of:
        text += f" of {of:,} ({100 * found['step'] / of:.1f}%)"
    elif of:  # made longer by hand, and what trains now has not said how long
        text += f", beyond the {of:,} of the config that is here"
    tokens = found["consumed_tokens"]
    return text + ("" if tokens is None else f", {tokens:,} tokens")


def _pace(pace: dict[str, Any]) -> str:
    whose = "" if pace["of_current_attempt"] else ", before the current start"
    return (
        f"{pace['tokens_per_second']:,.0f} tokens/s, {pace['tokens_per_second_per_gpu']:,.0f} per GPU, "
        f"{pace['step_time_s']:.3g} s a step (median of {pace['num_records']} records{whose})"
    )


def _plan(found: Status) -> list[tuple[str, str]]:
    if found["plan_problem"] is not None:
        return [("plan", f"not known: {found['plan_problem']}")]
    plan = found["plan"]
    if plan is None:
        return []
    parts = sorted(plan["parts_s"].items(), key=lambda one: -one[1])
    shares = ", ".join(
        f"{name} {seconds / plan['step_time_s']:.0%}" for name, seconds in parts if seconds >= plan["step_time_s"] / 200
    )
    slower = " (slower than tolerated)" if plan["is_slower"] else ""
    return [
        ("plan", f"{_speeds(plan, '')}; on {plan['num_ranks']:,} x {plan['machine']}"),
        ("against plan", f"{_speeds(plan, 'real_')}; {plan['times_as_long']:.2f} times as long{slower}"),
        ("planned parts", shares),
        *(("slower", part) for part in plan["slower_parts"]),
    ]


def _speeds(plan: dict[str, Any], whose: str) -> str:
    step, rate, full, causal = (
        plan[whose + name] for name in ("step_time_s", "tokens_per_second_per_gpu", "mfu_full", "mfu_causal")
    )
    return f"{step:.3g} s a step, {rate:,.0f} tokens/s per GPU, MFU {full:.1%} (causal {causal:.1%})"


def _eta(found: Status) -> str:
    jobs, counts = found["eta_jobs"], found["eta_counts"]
    text = f"{found['steps_left']:,} steps, {found['eta_hours']:.1f} h"
    text += "" if jobs is None else f", {jobs:,} job(s) of {found['hours_per_job']:.1f} h"
    lost = "" if found["lost_share"] is None else f" ({100 * found['lost_share']:.1f}% of the time)"
    return text + ("" if counts is None else f"; counted: {counts}{lost}")


def _checkpoint(found: dict[str, Any]) -> str:
    if found["step"] is None:
        text = "none"
    else:
        text = f"step {found['step']:,}, {_ago(found['age_hours'])}; {found['num_on_disk']:,} on disk"
    text += "; one is being written" if found["num_being_written"] else ""
    return text + (f"; {found['num_set_aside']} set aside as damaged" if found["num_set_aside"] else "")


def _queue(found: Status) -> list[tuple[str, str]]:
    if found["slurm_problem"] is not None:
        return [("queue", f"not known: {found['slurm_problem']}")]
    if found["jobs_running"] is None:
        return []
    running = [f"{job['job']} on {job['nodes']}, {job['time_left']} left" for job in found["jobs_running"]]
    waiting = [f"{job['job']} ({job['reason']})" for job in found["jobs_waiting"]]
    return [("jobs running", "; ".join(running) or "none"), ("jobs waiting", ", ".join(waiting) or "none")]


def _attempts(attempts: list[dict[str, Any]]) -> Table:
    left_out = len(attempts) - SHOWN_ATTEMPTS
    table = Table("job", "restart", "start (UTC)", "nodes", "from step", "to step", "decision")
    table.title = (
        f"the last {SHOWN_ATTEMPTS} of {len(attempts)} starts since the last submission" if left_out > 0 else None
    )
    for attempt in attempts[-SHOWN_ATTEMPTS:]:
        decision = attempt["decision"]
        reached = "" if decision is None else f"{decision['step']:,}"
        said = "none yet" if decision is None else f"{decision['action']}: {decision['reason']}"
        restart = f"{attempt['restart']}" + (f".{attempt['inside']}" if attempt["inside"] else "")
        cells = [attempt["job"], restart, attempt["start_utc"], _nodes(attempt["nodes"])]
        table.add_row(*map(on_one_line, [*cells, f"{attempt['step']:,}", reached, said]))
    return table


def _nodes(nodes: list[str]) -> str:
    return ", ".join(nodes) if len(nodes) <= 4 else f"{', '.join(nodes[:3])} and {len(nodes) - 3} more"


def _loss(loss: float | None) -> str:
    return "not finite" if loss is None else f"{loss:.4f}"


def _ago(hours: float) -> str:
    return (
        f"{hours:.1f} h ago"
        if hours >= 1
        else f"{hours * 60:.0f} min ago"
        if hours * 60 >= 1
        else f"{hours * 3600:.0f} s ago"
    )
