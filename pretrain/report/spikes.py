"""The steps of a run that went wrong, with their samples and, where the shards are still there, their documents."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fanal.errors import FanalError
from fanal.fields import fit, is_count
from fanal.json_lines import lines_from_end, parse_lines
from fanal.run_folder import SPIKES_FILE
from pretrain.config.rules import LARGEST_SAMPLE
from pretrain.data.read import TrainData
from pretrain.report.quantities import finite
from pretrain.report.read_log import RunLog
from pretrain.report.thinning import Curve, Point
from pretrain.trace.parts import Part, parts_of, with_columns

MAX_SHOWN = 40
"""Steps whose samples are shown: the newest."""
MAX_SAMPLES = 32
"""Samples of a step that are shown: the first."""
MAX_PARTS = 8
"""Documents of a sample that are shown."""
MAX_COLUMNS = 8
FIELDS = {"step": is_count, "first_sample": is_count, "num_samples": is_count}


@dataclass(frozen=True, kw_only=True)
class Spike:
    """A step in spikes.jsonl that counts: it was not trained again."""

    record: Mapping[str, Any]
    """Its line, with MAX_SAMPLES of its samples."""
    documents: Mapping[int, list[Part]] = field(default_factory=dict)
    """By sample, the documents that it is made of, with their columns; empty where the shards are not there."""


@dataclass
class Spikes:
    """All of them."""

    num_listed: int = 0
    """Steps that count."""
    num_skipped: int = 0
    norms: Curve = field(default_factory=Curve)
    """Gradient norm of each, thinned; 0 where it was not finite."""
    shown: list[Spike] = field(default_factory=list)
    """The newest MAX_SHOWN, newest first."""
    untold: str | None = None
    """Why the documents could not be told."""


def read_spikes(run_dir: Path, log: RunLog, data: TrainData | None) -> Spikes:
    """Read the file once, newest line first. Reads indexes and columns of the shards, no tokens."""
    found = Spikes()
    newer = math.inf
    lines = (line.decode(errors="replace") for line in lines_from_end(run_dir / SPIKES_FILE))
    for record in parse_lines(lines):
        if not fit(record, FIELDS) or record["step"] >= newer or _is_lost(record, log):
            continue  # trained again later
        step: int = record["step"]
        newer = step
        found.num_listed += 1
        found.num_skipped += record.get("skipped") is True
        norm = record.get("grad_norm")
        value = finite(norm) or 0.0
        found.norms.add(Point(step, 0, float(step), value))
        if len(found.shown) < MAX_SHOWN:
            found.shown.append(_spike(record, data, found))
    return found


def _is_lost(record: Mapping[str, Any], log: RunLog) -> bool:
    """Whether a later start has trained the step again."""
    if not is_count(record.get("start")):
        return False
    number: int = record["start"]
    step: int = record["step"]
    later = (start.step for start in log.starts if start.number is not None and start.number > number)
    return any(after is not None and after < step for after in later)


def _spike(record: Mapping[str, Any], data: TrainData | None, found: Spikes) -> Spike:
    samples = record.get("samples")
    kept = [sample for sample in samples if isinstance(sample, dict)] if isinstance(samples, list) else []
    short = {**record, "samples": kept[:MAX_SAMPLES]}
    first, count = record["first_sample"], min(record["num_samples"], MAX_SAMPLES)
    if data is None or first + count > LARGEST_SAMPLE:
        return Spike(record=short)
    numbers = np.arange(first, first + count, dtype=np.int64)
    try:
        sources, places = data.places(numbers)
        parts = [of_sample[:MAX_PARTS] for of_sample in parts_of(data, sources, places)]
        parts = with_columns(data, sources, parts)
    except (FanalError, OSError) as error:
        found.untold = str(error)
        return Spike(record=short)
    return Spike(record=short, documents=dict(zip(numbers.tolist(), parts, strict=True)))


def columns_in_words(part: Part) -> str:
    """Return what the shard says of a document."""
    known = {key: value for key, value in (part.columns or {}).items() if value is not None}
    return ", ".join(f"{key} {value}" for key, value in list(known.items())[:MAX_COLUMNS])


def sample_in_words(sample: Mapping[str, Any]) -> str:
    """Return where a sample came from, as its line says."""
    return json.dumps({key: value for key, value in sample.items() if key != "sample"}, ensure_ascii=False)[:400]
