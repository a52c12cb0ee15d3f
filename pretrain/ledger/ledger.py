"""The account of a run and of the runs that it came from: what they read, who started and stopped them, what they cost.

Everything in it is arithmetic on what the run folders and shards hold; the same folders give the same ledger.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fanal.json_lines import read_lines
from fanal.records import own_hash
from fanal.run_folder import SPIKES_FILE
from pretrain.checkpoint.disk.origin import Origin, sealed_hash
from pretrain.history.history import History, history_of
from pretrain.history.moved import Moved, with_moved
from pretrain.ledger.data_read import DataRead, data_read, trained_samples
from pretrain.ledger.ended import Decisions, decisions_of
from pretrain.ledger.energy import Energy, energy_of
from pretrain.ledger.entries import (
    amounts_json,
    by_device_json,
    energy_json,
    held_out_json,
    hours_json,
    source_json,
    start_json,
)
from pretrain.ledger.hours import Hours, elapsed_s_in_all, hours_by_device, hours_in_all, hours_of
from pretrain.ledger.models import Flops, TrainedModel, flops_in_all, flops_of, lost_tokens_of, model_json, model_of
from pretrain.ledger.starts import Attempt, attempts_of
from pretrain.log.evaluation_file import EvaluationFile, read_evaluations
from tokenizer.shards.manifest import fanal_version

FORMAT_VERSION = 1
LEDGER_HASH = "ledger_sha256"
"""Key of the hash of everything else."""


@dataclass(frozen=True, kw_only=True)
class SkippedStep:
    """A step that read its samples and changed nothing, or was trained on although it looked wrong."""

    step: int
    reason: str
    skipped: bool


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """A checkpoint."""

    name: str
    step: int
    manifest_sha256: str
    """Hash of its manifest, and so of every byte of it."""


@dataclass(frozen=True, kw_only=True)
class RunAccount:
    """One run of the chain."""

    run_dir: str
    trained_to: int
    """Last step that the model is made of: of an earlier run, that of the checkpoint which the next one started from."""
    saved_to: int
    samples: int
    tokens: int
    seq_length: int
    starts: tuple[Attempt, ...]
    decisions: Decisions
    bad_steps: tuple[SkippedStep, ...]
    hours: Hours
    elapsed_s: float | None
    """Seconds of all of its starts, one behind the other."""
    model: TrainedModel
    flops: Flops
    started_from: Sealed | None
    """The checkpoint of another run, or of an import, that it started from; None of initial weights."""
    checkpoint: Sealed | None
    """The checkpoint that stands for the model: its newest, of an earlier run that which the next one started from."""
    evaluations: tuple[EvaluationFile, ...] = ()
    """Evaluations of its checkpoints, in the order of their numbers."""

    def as_hours(self) -> list[Hours | None]:
        """The hours of each start."""
        return [hours_of(start) for start in self.starts]

    @property
    def skipped_steps(self) -> int:
        """Steps that changed nothing."""
        return sum(step.skipped for step in self.bad_steps)

    @property
    def lost_steps(self) -> int:
        """Steps that were trained and that no later step builds on."""
        return sum(start.lost_steps for start in self.starts)


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The account of a chain of runs."""

    run_dir: str
    runs: tuple[RunAccount, ...]
    """Oldest first."""
    missing: Origin | None
    """The checkpoint behind which the chain is not known: its run is not there any more, or it was imported or averaged."""
    data: DataRead
    hours: Hours
    energy: Energy

    def as_starts(self) -> list[Attempt]:
        """All starts of all runs, oldest first."""
        return [start for run in self.runs for start in run.starts]

    def not_known(self) -> list[str]:
        """What the folders do not tell, one sentence each."""
        return list(_not_known(self))

    def as_json(self) -> dict[str, Any]:
        """Everything, as it is documented in docs/ledger.md, with its own hash."""
        content: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "fanal_version": fanal_version(),
            "run_dir": self.run_dir,
            "runs": [_run_json(run) for run in self.runs],
            "came_from": None if self.missing is None else _missing_json(self.missing),
            "data": {
                "tokens": sum(part.tokens for part in self.data.parts),
                "parts": [
                    {
                        "run_dir": part.run_dir,
                        "mixture": part.mixture,
                        "first_sample": part.first_sample,
                        "end_sample": part.end_sample,
                        "first_step": part.first_step,
                        "last_step": part.last_step,
                        "tokens": part.tokens,
                        "padding_tokens": part.padding_tokens,
                        **amounts_json(part.amounts),
                    }
                    for part in self.data.parts
                ],
                "in_all": amounts_json(self.data.in_all),
                "sources": [source_json(source) for source in self.data.sources],
                "held_out": [held_out_json(held) for held in self.data.held_out],
                "dates": asdict(self.data.dates),
            },
            "rank_hours": hours_json(self.hours),
            "rank_hours_by_device": by_device_json(hours_by_device(self.as_starts())),
            "elapsed_s": elapsed_s_in_all(self.as_starts()),
            "flops": asdict(flops_in_all([run.flops for run in self.runs])),
            "energy": energy_json(self.energy),
            "not_known": self.not_known(),
        }
        return {**content, LEDGER_HASH: own_hash(content, LEDGER_HASH)}


def ledger_of(
    run_dir: str | Path,
    *,
    chain: bool = True,
    deep: bool = False,
    co2_g_per_kwh: float | None = None,
    moved: Sequence[Moved] = (),
) -> Ledger:
    """Account for a run, and for those that it came from.

    Args: chain: whether earlier runs count too; deep: whether every byte of the shards is compared with their manifests first;
        co2_g_per_kwh: the user's factor for CO2; moved: where its data lie now.
    Raises: UserError if it is no run, or if a shard is not there; DamageError for anything that was altered.
    """
    history = with_moved(history_of(run_dir, chain=chain), moved)
    return ledger_of_history(history, deep=deep, co2_g_per_kwh=co2_g_per_kwh)


def ledger_of_history(history: History, *, deep: bool = False, co2_g_per_kwh: float | None = None) -> Ledger:
    """Account for all runs of a history. Args and errors: as ``ledger_of``."""
    origins = [*(later.origin for later in history.phases[1:]), None]
    runs = [account_of(each, origin) for each, origin in zip(history.phases, origins, strict=True)]
    return Ledger(
        run_dir=str(history.run_dir),
        runs=tuple(runs),
        missing=history.missing,
        data=data_read(history.phases, deep=deep),
        hours=hours_in_all(hours for run in runs for hours in run.as_hours()),
        energy=energy_of([(Path(run.run_dir), run.starts) for run in runs], co2_g_per_kwh=co2_g_per_kwh),
    )


def ledger_text(ledger: Ledger) -> str:
    """Return the ledger as JSON."""
    return json.dumps(ledger.as_json(), indent=1, ensure_ascii=False) + "\n"


def account_of(history: History, continued: Origin | None = None) -> RunAccount:
    """Account for one run of a chain, but for its data. Reads its log, and no shard.

    Args: continued: the checkpoint of it that the next run started from.
    """
    starts, samples = tuple(attempts_of(history)), trained_samples(history)
    seq_length, model = history.segments[-1].config.data.seq_length, model_of(history)
    return RunAccount(
        run_dir=str(history.run_dir),
        trained_to=history.trained_to,
        saved_to=min(history.saved_to, history.trained_to),
        samples=samples,
        tokens=samples * seq_length,
        seq_length=seq_length,
        starts=starts,
        decisions=decisions_of(history.run_dir, starts),
        bad_steps=tuple(_bad_steps(history)),
        hours=hours_in_all(map(hours_of, starts)),
        elapsed_s=elapsed_s_in_all(starts),
        model=model,
        flops=flops_of(model, tokens=samples * seq_length, lost_tokens=lost_tokens_of(starts, history)),
        started_from=None if history.origin is None else _sealed(history.origin),
        checkpoint=_newest(history) if continued is None else _sealed(continued),
        evaluations=tuple(read_evaluations(history.run_dir)),
    )


def _sealed(origin: Origin) -> Sealed:
    return Sealed(name=Path(origin.checkpoint).name, step=origin.step, manifest_sha256=origin.manifest_sha256)


def _newest(history: History) -> Sealed | None:
    if history.newest is None:
        return None
    folder = history.newest.folder
    return Sealed(name=folder.name, step=history.newest.standing.step, manifest_sha256=sealed_hash(folder))


def _bad_steps(history: History) -> Sequence[SkippedStep]:
    """Steps that went wrong, of those that count: of one that was trained again, what became of it last."""
    found: dict[int, SkippedStep] = {}
    for record in read_lines(history.run_dir / SPIKES_FILE):
        step = record.get("step")
        if type(step) is not int or not 0 < step <= history.trained_to:
            continue
        found.pop(step, None)
        last = history.segment_of_step(step).start
        if last is None or record.get("start") in (None, last):
            found[step] = SkippedStep(
                step=step, reason=str(record.get("reason")), skipped=record.get("skipped") is True
            )
    return [found[step] for step in sorted(found)]


def _run_json(run: RunAccount) -> dict[str, Any]:
    folder = Path(run.run_dir)
    return {
        "run_dir": run.run_dir,
        "trained_to": run.trained_to,
        "saved_to": run.saved_to,
        "samples": run.samples,
        "tokens": run.tokens,
        "seq_length": run.seq_length,
        "skipped_steps": run.skipped_steps,
        "bad_steps": [vars(step) for step in run.bad_steps],
        "lost_steps": run.lost_steps,
        "starts": [
            start_json(start, folder, seq_length=run.seq_length, decision=run.decisions.get(id(start)))
            for start in run.starts
        ],
        "rank_hours": hours_json(run.hours),
        "elapsed_s": run.elapsed_s,
        "model": model_json(run.model),
        "flops": asdict(run.flops),
        "started_from": None if run.started_from is None else asdict(run.started_from),
        "checkpoint": None if run.checkpoint is None else asdict(run.checkpoint),
        "evaluations": [asdict(evaluation) for evaluation in run.evaluations],
    }


def _missing_json(origin: Origin) -> dict[str, Any]:
    """What an origin says of a run that is not there: how far it was, and how many samples of each shard it had read."""
    data = origin.data or {}
    return {
        "checkpoint": origin.checkpoint,
        "manifest_sha256": origin.manifest_sha256,
        "step": origin.step,
        "samples": origin.consumed_samples,
        "tokens": origin.consumed_tokens,
        "is_average": origin.average is not None,
        "sources": [
            {
                "prefix": source["prefix"],
                "identity": source["identity"],
                "num_tokens": source["num_tokens"],
                "train_tokens": source["train_tokens"],
                "samples": source["cursor"],
                "tokens": source["cursor"] * data["seq_length"],
            }
            for source in data.get("sources", [])
        ],
        "came_from": None if origin.origin is None else _missing_json(origin.origin),
    }


def _not_known(ledger: Ledger) -> Sequence[str]:
    lines = []
    if (origin := ledger.missing) is not None:
        lines.append(
            f"the run of {origin.checkpoint}, step {origin.step:,}, is not there: its documents, starts and costs are not counted"
            if origin.data is not None and origin.average is None
            else f"what {origin.checkpoint} was made of is not counted: it was imported, or is the mean of several checkpoints"
        )
    for run in ledger.runs:
        old = sum(start.file is None for start in run.starts)
        if not run.starts:
            lines.append(
                f"{run.run_dir} has neither files of its starts nor a log: its starts, hours and losses are not known"
            )
        elif old:
            lines.append(
                f"of {old} start(s) of {run.run_dir} only the log tells: who, on which code and nodes, and how long is not known"
            )
        if (cut := sum(start.end is None for start in run.starts)) and not old:
            lines.append(
                f"{cut} start(s) of {run.run_dir} left no end: they count up to their last line in the log, and may have done more"
            )
    if ledger.energy.joules is None:
        lines.append(f"energy: {ledger.energy.slurm_problem or 'nothing'}, and no energy counters were read")
    elif ledger.energy.without:
        lines.append(f"the energy of {ledger.energy.without} start(s) was not measured, and is not in the sum")
    return lines
