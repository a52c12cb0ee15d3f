"""What ``fanal trace`` prints: lines for people, or one JSON object."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from fanal.shown import on_one_line
from pretrain.trace.document import DocumentTrace, PhaseTrace, Reading
from pretrain.trace.parts import Part
from pretrain.trace.spikes import ListedSpike
from pretrain.trace.step import SampleTrace, StepTrace

FIRST_COLUMNS = ("licence", "host", "id", "language", "date")
"""Columns that a line begins with; others follow, and the file last."""
MOST_READINGS = 40
"""Readings of a document that lines show, of a phase; JSON has all."""


def json_text(run_dir: str, found: Mapping[str, Any]) -> str:
    """One JSON object: the run, and what was found."""
    answer = {"run_dir": run_dir, **found}
    try:
        return orjson.dumps(answer).decode()
    except orjson.JSONEncodeError:  # of a name that is not UTF-8; Python's is ten times as slow
        return json.dumps(answer, default=vars)


def step_lines(run_dir: str, trace: StepTrace, spikes: Sequence[ListedSpike]) -> Iterator[str]:
    """A line for the step, one for each sample, and one for each document in it."""
    who = f"start {trace.start}" if trace.start is not None else "checkpoints"
    yield (
        f"step {trace.step:,} of {run_dir}: samples {trace.first_sample:,} to {trace.first_sample + trace.num_samples - 1:,}, "
        f"{'trained' if trace.is_trained else 'planned'}; known from {who} ({trace.known_from})"
    )
    for spike in spikes:
        yield f"it is in spikes.jsonl: {spike.reason}, {'skipped' if spike.skipped else 'trained on'}, loss {spike.loss}"
    if len(trace.samples) < trace.num_samples:
        yield f"{len(trace.samples):,} of its {trace.num_samples:,} samples:"
    for sample in trace.samples:
        yield from _sample_lines(sample)


def _sample_lines(sample: SampleTrace) -> Iterator[str]:
    reader = "" if sample.replica is None else f", micro batch {sample.micro_batch} of replica {sample.replica}"
    row = "" if sample.row is None else f", row {sample.row:,}"
    yield f"sample {sample.sample:,}{reader}: {sample.source} ({sample.domain}), pass {sample.pass_number}{row}"
    for part in sample.parts:
        yield _part_line(part)
        if part.text is not None:
            yield f"    {json.dumps(part.text, ensure_ascii=False)}"


def _part_line(part: Part) -> str:
    tokens = f"tokens {part.offset:,} to {part.offset + part.num_tokens - 1:,} of {part.document_tokens:,}"
    return f"  document {part.document:,}: {tokens}{_columns(part.columns)}"


def _columns(columns: Mapping[str, str | int | None] | None) -> str:
    if columns is None:
        return ""
    others = [name for name in columns if name not in (*FIRST_COLUMNS, "file", "position")]
    known = [f"{name} {columns[name]}" for name in (*FIRST_COLUMNS, *others) if columns.get(name) is not None]
    place = [f"{columns['file']}:{columns['position']}"] if columns.get("file") is not None else []
    return "; " + ", ".join(known + place)


def document_lines(trace: DocumentTrace) -> Iterator[str]:
    """A line for the document, or the text in it, one for each run of the chain, and one for each sample that holds it."""
    document, hit = trace.document, trace.hit
    if hit is not None:
        first, last = hit.start_token - document.first_token, hit.end_token - 1 - document.first_token
        yield f"tokens {first:,} to {last:,} of what follows: {json.dumps(hit.excerpt, ensure_ascii=False)}"
    yield f"document {document.number:,} of {document.prefix}: {document.num_tokens:,} tokens{_columns(document.columns)}"
    if trace.unknown_before is not None:
        yield f"what was trained on before {trace.unknown_before} is not known: its run is not there"
    for phase in trace.phases:
        yield from _phase_lines(phase)


def _phase_lines(phase: PhaseTrace) -> Iterator[str]:
    past = [reading for reading in phase.readings if reading.is_trained]
    held_out = " (held out for validation)" if phase.held_out else ""
    yield (
        f"{phase.run_dir}{held_out}: trained on it in {_times(past)} of steps 1 to {phase.trained_to:,}, and will in "
        f"{_times([reading for reading in phase.readings if not reading.is_trained])} up to step {phase.planned_to:,}; its "
        f"newest checkpoint, of step {phase.saved_to:,}, has seen {sum(reading.is_saved for reading in phase.readings):,} of them"
    )
    for reading in phase.readings[:MOST_READINGS]:
        step = "a step that no file tells" if reading.step is None else f"step {reading.step:,}"
        yield (
            f"  {step}, sample {reading.sample:,}, pass {reading.pass_number}: tokens {reading.offset:,} to "
            f"{reading.offset + reading.num_tokens - 1:,}{'' if reading.is_trained else ', planned'}"
        )
    if len(phase.readings) > MOST_READINGS:
        yield f"  and {len(phase.readings) - MOST_READINGS:,} more, which --json lists"


def _times(readings: Sequence[Reading]) -> str:
    samples = len({reading.sample for reading in readings})
    return f"{samples:,} {'sample' if samples == 1 else 'samples'}"


def spike_lines(run_dir: str, spikes: Sequence[ListedSpike]) -> Iterator[str]:
    """A line for each step that went wrong."""
    if not spikes:
        yield f"{run_dir} lists no step that went wrong in spikes.jsonl"
    for spike in spikes:
        yield (
            f"step {spike.step:,}: {spike.reason}, {'skipped' if spike.skipped else 'trained on'}, loss {spike.loss}, gradient "
            f"norm {spike.grad_norm}, samples {spike.first_sample:,} to {spike.first_sample + spike.num_samples - 1:,}"
        )


def on_lines(lines: Iterable[str]) -> str:
    """These lines as one text, each on one line whatever the names and texts in it hold; indents stay."""
    return "\n".join(
        line if line.isprintable() else line[: len(line) - len(line.lstrip(" "))] + on_one_line(line) for line in lines
    )
