"""What a run's own log says of its speed: the layout that its newest start had, on which device, and the time of its steps."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from fanal.errors import UserError, user_path
from fanal.fields import Rule, fit, is_count, is_figure, or_null
from fanal.json_lines import parse_lines
from fanal.plain_files import plain_stream
from fanal.run_folder import METRICS_FILE
from fanal.run_progress import RECORD_BEGINS, newest_metrics
from fanal.shown import shown_json
from pretrain.config.schema import RunConfig
from pretrain.config.steps import last_batch_size
from pretrain.history.evidence import config_in
from pretrain.log.start_file import StartFile, read_start, start_numbers

WARM_UP_STEPS = 3
"""Steps of a start that do not count: their memory is new, and their kernels are chosen or compiled."""
LEAST_STEPS = 10
"""Steps behind these that a run must have, with the full batch."""
LEAST_RECORDS = 3
MOST_SCATTER = 0.3
"""Half of the records must lie within so much of their median, or something else took the machine's time."""

FIELDS: dict[str, Rule] = {
    "start": or_null(is_count),
    "step": is_count,
    "global_batch_size": is_count,
    "step_time_s": lambda value: is_figure(value) and value > 0,
}
"""Fields of a step's record that say its speed; an older version wrote no start."""
WORDS = {
    "start": "the number of a start",
    "step": "a number of steps",
    "global_batch_size": "a number of samples",
    "step_time_s": "seconds above 0",
}


@dataclass(frozen=True, kw_only=True)
class LoggedRun:
    """A run in one layout, and what its steps took."""

    run_dir: str
    run: RunConfig
    num_ranks: int
    num_nodes: int
    device_name: str
    """Of rank 0."""
    step_s: float
    """Seconds of a step of the full batch, validation and saves not counted: the median of the records."""
    steps: int
    """Steps that it is the median of."""

    @property
    def ranks_per_node(self) -> int:
        """Ranks of a node; of the fullest where they are not the same."""
        return -(-self.num_ranks // self.num_nodes)


def logged_run(run_dir: str | Path) -> LoggedRun:
    """Return the newest start of a run that has steps enough; the run may still be running.

    Raises: UserError if there is none, if its steps are too few or scatter, or a newer version wrote it; DamageError if the file of
    a start was altered.
    """
    folder = Path(run_dir)
    with user_path(folder):
        numbers = start_numbers(folder)
    if not numbers:
        raise UserError(
            f"--calibrate ({run_dir}) must be the folder of a run that has started, and there is no starts/start-00001.json in it; "
            "run_dir of a config that `fanal train` took works"
        )
    records: dict[int, list[dict[str, Any]]] = {}
    for record in newest_metrics(folder, kinds=("step",)):
        _check(record, folder)
        if not record.get("replay"):
            records.setdefault(record.get("start", 0), []).append(record)
    most = 0
    for number in sorted(numbers, reverse=True):
        start = read_start(folder, number)
        run = config_in(start.config, folder, where=f"start {number} of {run_dir}")
        counted = _counted(records.get(number, []), start, run)
        steps = len(counted) * run.log.interval
        if len(counted) >= LEAST_RECORDS and steps >= LEAST_STEPS:
            return _logged(run_dir, run, start, counted, steps)
        most = max(most, steps)
    raise UserError(
        f"--calibrate ({run_dir}) must have at least {LEAST_STEPS} steps of the full batch in {LEAST_RECORDS} records of a "
        f"start, behind its first {WARM_UP_STEPS}, and has {most}; "
        f"a run of {LEAST_STEPS + WARM_UP_STEPS} steps with log.interval=1 works"
    )


def _check(record: dict[str, Any], folder: Path) -> None:
    """Refuse a record with a field that no run writes so: its line was changed, and what it says of the run is not known."""
    if fit(record, FIELDS):
        return
    name = next(name for name, rule in FIELDS.items() if not fit(record, {name: rule}))
    path = folder / METRICS_FILE
    stated = f"({shown_json(record[name])}) " if name in record else ""
    raise UserError(
        f"{path}, line {_line_of(record, path)}: {name} {stated}must be {WORDS[name]}; without this line the file works"
    )


def _line_of(record: dict[str, Any], path: Path) -> int | str:
    """Return the number of the line that holds a record."""
    text = json.dumps(record)  # NaN is not equal to itself
    with plain_stream(path) as stream:
        for number, line in enumerate(stream, start=1):
            found = parse_lines([line.decode(errors="replace")], begins=RECORD_BEGINS)
            if any(json.dumps(one) == text for one in found):
                return number
    return "?"  # the run has changed its file since


def _counted(records: list[dict[str, Any]], start: StartFile, run: RunConfig) -> list[dict[str, Any]]:
    """Return a start's records of steps of the full batch alone, warm-up left out."""
    first = start.step + WARM_UP_STEPS + run.log.interval
    full = last_batch_size(run.train)
    return [one for one in records if one["step"] >= first and one["global_batch_size"] == full]


def _logged(
    run_dir: str | Path, run: RunConfig, start: StartFile, records: list[dict[str, Any]], steps: int
) -> LoggedRun:
    times = [float(one["step_time_s"]) for one in records]
    low, middle, high = quantiles(times, n=4)
    if (high - low) / middle > MOST_SCATTER:
        raise UserError(
            f"--calibrate ({run_dir}) must have steps of one pace, and half of its records are outside {low:.3g} to {high:.3g} s a "
            f"step, {(high - low) / middle:.0%} of their median; a run that has its nodes for itself works"
        )
    return LoggedRun(
        run_dir=str(run_dir), run=run, num_ranks=start.num_ranks, num_nodes=max(1, len(start.hosts)),
        device_name=max(start.devices, key=lambda name: start.devices[name]), step_s=median(times), steps=steps,
    )  # fmt: skip
