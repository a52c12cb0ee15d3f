"""Entries of a ledger as JSON has them: names with units, null for what is not known."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pretrain.ledger.data_read import Amounts, HeldOut, TrainedSource
from pretrain.ledger.energy import Energy
from pretrain.ledger.hours import Hours, hours_of
from pretrain.ledger.starts import Attempt
from pretrain.ledger.tally import QUANTITIES


def amounts_json(amounts: Amounts) -> dict[str, Any]:
    """Return lists by source, language, licence and host, the largest first; ``name`` is null where nothing is said."""
    return {
        f"by_{dimension}": [
            {
                "name": name,
                **{quantity: getattr(amount, quantity) for quantity in QUANTITIES},
                "passes": amount.passes,
                "never_read_tokens": amount.available_tokens - amount.distinct_tokens,
                "never_read_documents": amount.available_documents - amount.documents,
            }
            for name, amount in by_name.items()
        ]
        for dimension, by_name in amounts.items()
    }


def source_json(source: TrainedSource) -> dict[str, Any]:
    """Return what is known of a shard that was trained on."""
    return vars(source) | {
        "held_out_tokens": source.num_tokens - source.train_tokens,
        "known_by_document": list(source.known_by_document),
        "exclusions": [asdict(exclusion) for exclusion in source.exclusions],
        "overlap": [asdict(check) for check in source.overlap],
        "dates": asdict(source.dates),
    }


def held_out_json(held: HeldOut) -> dict[str, Any]:
    """Return what is known of text that was held out."""
    return vars(held) | {"trained_by": list(held.trained_by)}


def start_json(attempt: Attempt, run_dir: Path, *, seq_length: int, decision: str | None) -> dict[str, Any]:
    """Return what is known of a start, and of how it ended."""
    file, record, end = attempt.file, attempt.record, attempt.end
    lost_samples, hours = attempt.lost_samples(run_dir), hours_of(attempt)
    return {
        "number": attempt.number,
        "known_from": attempt.known_from,
        "time_unix_s": None if file is None else file.time_unix_s,
        "last_line_unix_s": attempt.end_time_unix_s,
        "elapsed_s": attempt.elapsed_s,
        "user": None if file is None else file.user,
        "job": None if file is None else file.job,
        "code": None if file is None else vars(file.code),
        "versions": dict(record.get("versions") or {}) if file is None else file.versions,
        "hosts": None if file is None else list(file.hosts),
        "num_ranks": attempt.num_ranks,
        "devices": attempt.devices,
        "device_type": None if file is None else file.device_type,
        "changes": None if file is None else list(file.changes),
        "after_step": attempt.step,
        "last_step": attempt.last_step,
        "lost_steps": attempt.lost_steps,
        "lost_tokens": None if lost_samples is None else lost_samples * seq_length,
        "end": {
            "outcome": None if end is None else end["outcome"],
            "asked_by": None if end is None else end["asked_by"] or None,
            "decision": decision,
        },
        "rank_hours": None if hours is None else hours_json(hours),
    }


def hours_json(hours: Hours) -> dict[str, Any]:
    """Return the hours of ranks, and their goodput."""
    return vars(hours) | {"goodput": hours.goodput}


def by_device_json(by_device: Mapping[str | None, float | None]) -> list[dict[str, Any]]:
    """Return the hours of ranks by device; ``device`` is null where nothing tells which."""
    return [{"device": device, "hours": hours} for device, hours in by_device.items()]


def energy_json(energy: Energy) -> dict[str, Any]:
    """Return the energy, each share with its method."""
    return {
        "joules": energy.joules,
        "kwh": energy.kwh,
        "methods": list(energy.methods),
        "shares": [vars(share) | {"starts": list(share.starts)} for share in energy.shares],
        "starts_without": energy.without,
        "slurm_problem": energy.slurm_problem,
        "co2_g": energy.co2_g,
        "co2_g_per_kwh": energy.co2_g_per_kwh,
        "co2_method": None if energy.co2_g is None else "energy times the factor that the user gave (--co2-g-per-kwh)",
    }
