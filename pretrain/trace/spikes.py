"""The steps of a run that went wrong, as spikes.jsonl lists them: which, and why. Their documents: step.py."""

from dataclasses import dataclass
from pathlib import Path

from fanal.fields import Rule, fit, is_count
from fanal.json_lines import read_lines
from fanal.run_folder import SPIKES_FILE

FIELDS: dict[str, Rule] = {"step": is_count, "first_sample": is_count, "num_samples": is_count}


@dataclass(frozen=True, kw_only=True)
class ListedSpike:
    """A step in spikes.jsonl."""

    step: int
    reason: str
    skipped: bool
    """Whether its update was left out."""
    loss: float | None
    grad_norm: float | None
    first_sample: int
    num_samples: int


def listed_spikes(run_dir: Path) -> list[ListedSpike]:
    """Return the steps of spikes.jsonl in the order of the file; one that was trained again after a kill is there again."""
    return [
        ListedSpike(
            step=line["step"],
            reason=str(line.get("reason", "")),
            skipped=bool(line.get("skipped")),
            loss=_number(line.get("loss")),
            grad_norm=_number(line.get("grad_norm")),
            first_sample=line["first_sample"],
            num_samples=line["num_samples"],
        )
        for line in read_lines(run_dir / SPIKES_FILE)
        if fit(line, FIELDS)
    ]


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
