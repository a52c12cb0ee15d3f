"""Run folders with logs as the trainer writes them, of any length, without a training."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fanal.run_folder import METRICS_FILE, SPIKES_FILE
from pretrain.log.record import EndRecord, StartRecord, StepRecord, ValidationRecord
from pretrain.log.sinks import KINDS, json_value

TOKENS_A_STEP = 1_000
Record = dict[str, Any]


def start(step: int, **fields: Any) -> Record:
    known: Record = {
        "train_steps": 100, "headline": "a model on 2 x cpu: TP2", "device": "cpu", "num_ranks": 2, "versions": {"torch": "2.13"},
        "passes": {}, "optimizer": "AdamW", "attention": "sdpa",
    }  # fmt: skip
    return _record(StartRecord, {**known, "step": step, **fields})


def step(number: int, **fields: Any) -> Record:
    loss = 3 + 4 * math.exp(-number / 30)
    known: Record = {
        "consumed_samples": number * 10, "consumed_tokens": number * TOKENS_A_STEP, "global_batch_size": 10, "loss": loss,
        "loss_by_domain": {"code": loss - 0.1, "prose": loss + 0.1}, "z_loss": None, "learning_rate": 1e-3 / (1 + number),
        "grad_norm": 1.0 + 0.5 * math.sin(number), "skipped_steps": 0, "skipped_spikes": 0, "step_time_s": 0.5,
        "tokens_per_second": 2_000.0 + number % 7, "tokens_per_second_per_gpu": 1_000.0, "mfu_full": 0.4, "mfu_causal": 0.3,
        "peak_memory_bytes": 2**30, "eta_s": 1.0,
    }  # fmt: skip
    return _record(StepRecord, {**known, "step": number, **fields})


def validation(number: int, **fields: Any) -> Record:
    known: Record = {
        "consumed_tokens": number * TOKENS_A_STEP, "validation_loss": {"code": 3.5 - number / 1e4, "prose": 3.8 - number / 1e4},
        "validation_time_s": 0.2,
    }  # fmt: skip
    return _record(ValidationRecord, {**known, "step": number, **fields})


def checkpoint(number: int, **fields: Any) -> Record:
    known = {
        "path": "x",
        "num_bytes": 10**9,
        "stall_s": 0.1,
        "save_s": 2.0 + number / 100,
        "failure": None,
        "warning": None,
    }
    return {"kind": "checkpoint", "step": number, **known, **fields}


def end(number: int, **fields: Any) -> Record:
    return _record(EndRecord, {"step": number, "outcome": "finished", "asked_by": "", "checkpoint": None, **fields})


def stamped(records: list[Record], number: int, *, clock_s: float = 1.7e9, gap_s: float = 1.0) -> list[Record]:
    """The lines of one start, as this version writes them."""
    return [
        {**record, "start": number, "time_unix_s": clock_s + at * gap_s, "elapsed_s": 2.0 + at * gap_s}
        for at, record in enumerate(records)
    ]


def resumed() -> list[Record]:
    """A run that was cut off after step 30, and went on from step 20 with a clock that had gone back a day."""
    first = [
        start(0),
        *(step(at) for at in range(1, 21)),
        checkpoint(20),
        *(step(at, loss=9.0) for at in range(21, 31)),
    ]
    first.insert(26, validation(25))
    second = [start(20), *(step(at) for at in range(21, 41)), validation(40), checkpoint(40), end(40)]
    return stamped(first, 1) + stamped(second, 2, clock_s=1.7e9 - 86_400)


def write_run(folder: Path, records: Iterator[Record] | list[Record], spikes: list[Record] | None = None) -> Path:
    """A run folder with this log, and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / METRICS_FILE).open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(record) + "\n" for record in records)
    if spikes is not None:
        (folder / SPIKES_FILE).write_text("".join(json.dumps(spike) + "\n" for spike in spikes), encoding="utf-8")
    return folder


def _record(kind: type, fields: Record) -> Record:
    made = kind(**fields)
    return {"kind": KINDS[kind], **{name: json_value(value) for name, value in vars(made).items()}}
