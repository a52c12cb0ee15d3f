"""Hand-made run folders: what a run and its jobs leave."""

import json
import os
import time
from pathlib import Path
from typing import Any

START = "2026-03-01T10:00:00Z"
START_S = 1772359200.0


def step(number: int, *, loss: float = 3.0, step_time_s: float = 2.0, **more: Any) -> dict[str, Any]:
    return {
        "kind": "step", "step": number, "loss": loss, "consumed_tokens": number * 1000, "step_time_s": step_time_s,
        "tokens_per_second": 1000 / step_time_s, "tokens_per_second_per_gpu": 125 / step_time_s,
        "skipped_steps": 0, "skipped_spikes": 0, **more,
    }  # fmt: skip


def start(after: int, **more: Any) -> dict[str, Any]:
    return {"kind": "start", "step": after, "headline": "a model", **more}


def validation(number: int, loss: float) -> dict[str, Any]:
    return {"kind": "validation", "step": number, "validation_loss": {"code": loss}, "validation_time_s": 4.0}


def saved(number: int, **more: Any) -> dict[str, Any]:
    return {"kind": "checkpoint", "step": number, "stall_s": 1.0, "failure": None, **more}


def end(number: int, outcome: str) -> dict[str, Any]:
    return {"kind": "end", "step": number, "outcome": outcome, "asked_by": "", "checkpoint": None}


class RunFolder:
    """Writes what a run and its jobs leave."""

    def __init__(self, path: Path, config: str = "") -> None:
        self.path = path
        (path / "launch").mkdir(parents=True)
        if config:
            (path / "launch" / "config.yaml").write_text(config)
        facts = {"name": "fanal-mine-abc123", "minutes": 600, "run_dir": str(path)}
        (path / "launch" / "job.json").write_text(json.dumps(facts))

    def metrics(self, *records: dict[str, Any] | str, written: float | None = None) -> None:
        path = self.path / "metrics.jsonl"
        with path.open("a") as stream:
            stream.writelines(record if isinstance(record, str) else json.dumps(record) + "\n" for record in records)
        if written is not None:
            os.utime(path, (written, written))

    def jobs(self, *events: dict[str, Any]) -> None:
        with (self.path / "jobs.jsonl").open("a") as stream:
            stream.writelines(json.dumps({"time_utc": START, **event}) + "\n" for event in events)

    def checkpoint(self, number: int, *, age_s: float = 0) -> None:
        folder = self.path / "checkpoints" / f"step-{number:08d}"
        folder.mkdir(parents=True)
        (folder / "COMPLETE").write_text("x")
        then = time.time() - age_s
        os.utime(folder / "COMPLETE", (then, then))


def submitted(*jobs: str) -> dict[str, Any]:
    return {"event": "submitted", "jobs": list(jobs), "slices": len(jobs), "nodes": 2, "hours": 20.0}


def started(job: str, restart: int = 0, at_step: int = 0, time_utc: str = START) -> dict[str, Any]:
    nodes = ["n1", "n2"]
    return {"event": "started", "job": job, "restart": restart, "nodes": nodes, "step": at_step, "time_utc": time_utc}


def decided(
    job: str, action: str, *, at_step: int, time_utc: str, restart: int = 0, exclude: tuple = ()
) -> dict[str, Any]:
    return {
        "event": "decided", "job": job, "restart": restart, "action": action, "reason": "as [told] here", "exit_code": 0,
        "step": at_step, "restarts_without_checkpoint": 0, "exclude": list(exclude), "by": f"{job}-{restart}",
        "time_utc": time_utc,
    }  # fmt: skip
