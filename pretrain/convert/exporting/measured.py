"""What a run's log says of its training up to a step, for the model card."""

from pathlib import Path

from fanal.run_progress import newest_metrics
from fanal.running_median import RunningMedian
from pretrain.convert.exporting.markdown import as_text
from pretrain.log.summary import figure


def measured_rows(run_dir: Path, step: int) -> list[tuple[str, str]]:
    """Return what the run logged up to this step; nothing without a log. Reads it once, newest record first, and keeps none."""
    loss: str | None = None
    validation: str | None = None
    rates, peak_bytes = RunningMedian(), 0
    hardware: dict[str, None] = {}
    for record in newest_metrics(run_dir, kinds=("step", "validation", "start")):
        if record.get("step", 0) > step:
            continue
        if record["kind"] == "step":
            loss = loss or f"{figure(record['loss'])} at step {record['step']:,}"
            rates.add(record["tokens_per_second"])
            peak_bytes = max(peak_bytes, record["peak_memory_bytes"])
        elif record["kind"] == "validation" and validation is None:
            losses = ", ".join(
                f"{as_text(name)} {figure(value)}" for name, value in sorted(record["validation_loss"].items())
            )
            validation = f"{losses} at step {record['step']:,} (nats a token)"
        elif record["kind"] == "start":
            used = f"{record['num_ranks']} x {as_text(record['device'])}"
            hardware.pop(used, None)
            hardware[used] = None  # last: where it was used first
    rows = []
    if loss is not None:
        rows.append(("training loss", loss))
    if validation is not None:
        rows.append(("validation loss", validation))
    if loss is not None:
        pace = f"{rates.value():,.0f} tokens/s over all ranks (median), at most {peak_bytes / 2**30:.2f} GiB per rank"
        rows.append(("throughput", pace))
        rows.append(("hardware", ", ".join(reversed(hardware)) or "not recorded"))
    return rows
