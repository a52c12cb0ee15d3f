"""The curves of a record, under the names that every sink with curves gives them."""

import dataclasses
from collections.abc import Iterator

from fanal.shown import escaped
from pretrain.checkpoint.saving.save import SaveReport
from pretrain.log.record import DecayRecord, EndRecord, StartRecord, StepRecord, ValidationRecord
from pretrain.log.stability_record import StabilityRecord, scalars

Record = StartRecord | StepRecord | ValidationRecord | StabilityRecord | SaveReport | DecayRecord | EndRecord


def curves_of(record: Record) -> Iterator[tuple[str, float]]:
    """Yield the name and the value of each curve that has a point at ``record.step``; what is unknown has none."""
    if isinstance(record, ValidationRecord):
        yield from _by_domain("validation_loss", record.validation_loss)
        yield from _by_domain("ema_validation_loss", record.ema_validation_loss or {})
    elif isinstance(record, StabilityRecord):
        yield from scalars(record)
    elif isinstance(record, SaveReport) and record.failure is None:
        yield "checkpoint/stall_s", record.stall_s
        yield "checkpoint/save_s", record.save_s
    elif isinstance(record, StepRecord):
        yield from _by_domain("loss_by_domain", record.loss_by_domain)
        for name, value in dataclasses.asdict(record).items():
            if name not in ("step", "loss_by_domain") and value is not None:
                yield f"train/{name}", value


def _by_domain(group: str, losses: dict[str, float]) -> Iterator[tuple[str, float]]:
    yield from ((f"{group}/{escaped(domain)}", loss) for domain, loss in losses.items())
