"""The model that a run trained: its size, its configuration, and the operations that its training took."""

from dataclasses import asdict, dataclass
from typing import Any

from fanal.errors import UserError
from pretrain.config.schema import RunConfig
from pretrain.history.history import History
from pretrain.ledger.starts import Attempt
from pretrain.model.families import family_of
from pretrain.model.families.sizes import num_parameters
from pretrain.model.flops import flops_per_token

SECTIONS = ("model", "objective", "optim", "train")
"""Sections of a configuration that say what was trained, and how; they hold no path."""


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """The model of a run, as the configuration of its last steps states it."""

    config: RunConfig
    architecture: str | None
    """Class of Hugging Face's transformers that computes it; None where none does."""
    parameters: int
    """Trainable parameters, without padding of the vocabulary."""


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Floating-point operations of a training, forward and backward, recomputation not counted (pretrain/model/flops.py): where
    every position attends to every other, and with the causal half of that."""

    full: float
    causal: float
    lost_full: float | None
    """Of steps that no later step builds on, which the two above leave out; None where their tokens are not known."""
    lost_causal: float | None


def model_of(history: History) -> TrainedModel:
    """Return the model of a run."""
    config = history.segments[-1].config
    try:
        architecture = family_of(config.model).architecture
    except UserError:
        architecture = None
    return TrainedModel(config=config, architecture=architecture, parameters=num_parameters(config.model))


def flops_of(model: TrainedModel, *, tokens: int, lost_tokens: int | None) -> Flops:
    """Return the operations of these tokens."""
    full, causal = _per_token(model)
    return Flops(
        full=full * tokens,
        causal=causal * tokens,
        lost_full=None if lost_tokens is None else full * lost_tokens,
        lost_causal=None if lost_tokens is None else causal * lost_tokens,
    )


def flops_in_all(parts: list[Flops]) -> Flops:
    """Add operations up. A sum with a part that is not known is not known."""
    return Flops(
        full=sum(part.full for part in parts),
        causal=sum(part.causal for part in parts),
        lost_full=_sum_of([part.lost_full for part in parts]),
        lost_causal=_sum_of([part.lost_causal for part in parts]),
    )


def lost_tokens_of(starts: tuple[Attempt, ...], history: History) -> int | None:
    """Return the tokens of a run's lost steps; None where the configuration of one of its starts is not known."""
    samples = [start.lost_samples(history.run_dir) for start in starts]
    known = [count for count in samples if count is not None]
    return sum(known) * history.segments[-1].config.data.seq_length if len(known) == len(samples) else None


def model_json(model: TrainedModel) -> dict[str, Any]:
    """Return what is known of a model, with the sections of its configuration."""
    full, causal = _per_token(model)
    return {
        "architecture": model.architecture,
        "parameters": model.parameters,
        "flops_per_token_full": full,
        "flops_per_token_causal": causal,
        "configuration": {name: asdict(getattr(model.config, name)) for name in SECTIONS},
    }


def _per_token(model: TrainedModel) -> tuple[float, float]:
    config = model.config
    full, causal = (
        float(flops_per_token(config.model, config.data.seq_length, causal=causal)) for causal in (False, True)
    )
    return full, causal


def _sum_of(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
