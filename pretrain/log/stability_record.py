"""The record of a stability report, and how its numbers are called in TensorBoard. What each means: docs/stability.md."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Norms:
    """L2 norms of the parameters of one part of a model."""

    gradient_norm: float
    """Of the gradient of the whole batch, before gradient clipping."""
    weight_norm: float
    """Of the fp32 weights that the gradient belongs to, so before the update."""
    update_norm: float
    """Of what the update added to them; 0 where the step was skipped."""
    update_ratio: float
    """update_norm / weight_norm."""


@dataclass(frozen=True, kw_only=True)
class StabilityRecord:
    """Numbers of one step, by layer of the whole model, counted from 0, whatever the layout."""

    step: int
    consumed_tokens: int
    residual_rms: list[float]
    """Root mean square of the residual stream after each layer, over all tokens of the batch and all channels."""
    residual_max: list[float]
    """Largest absolute value of the same."""
    attention_rms: list[float]
    """Root mean square of what attention adds to the residual stream, behind its output projection and norm."""
    feed_forward_rms: list[float]
    """The same of the feed-forward."""
    attention_logit_max: list[float]
    """Largest number that the softmax of attention is given: scaled, capped where the model caps it, of visible keys."""
    gradient_norm: list[float]
    weight_norm: list[float]
    update_norm: list[float]
    update_ratio: list[float]
    """As of Norms, of all parameters of each layer together."""
    outside_layers: dict[str, Norms]
    """Norms of ``embedding``, ``final_norm`` and, unless it is tied to the embedding, ``output_layer``."""
    embedding_rms: float
    """Root mean square of the residual stream before the first layer."""
    output_logit_max: float
    """Largest logit of a token of the vocabulary, capped where the model caps it."""
    log_denominator_mean: float
    """Mean over all tokens of the logarithm of the softmax's denominator over the vocabulary, log Z."""


BY_LAYER = (
    "residual_rms", "residual_max", "attention_rms", "feed_forward_rms", "attention_logit_max", "gradient_norm",
    "weight_norm", "update_norm", "update_ratio",
)  # fmt: skip
OF_THE_MODEL = ("embedding_rms", "output_logit_max", "log_denominator_mean")


def scalars(record: StabilityRecord) -> Iterator[tuple[str, float]]:
    """Yield the curves of a record: a group for each number, in it a curve for each layer, which sort by their names."""
    for name in BY_LAYER:
        values: Sequence[float] = getattr(record, name)
        width = len(str(len(values) - 1))
        yield from ((f"stability_{name}/layer_{layer:0{width}}", value) for layer, value in enumerate(values))
    for part, norms in record.outside_layers.items():
        yield from ((f"stability_{name}/{part}", value) for name, value in vars(norms).items())
    yield from ((f"stability/{name}", getattr(record, name)) for name in OF_THE_MODEL)
    yield "stability/attention_logit_max", max(record.attention_logit_max)


def stability_line(record: StabilityRecord) -> str:
    """Return the console line of a report."""
    logit, of_logit = _largest(record.attention_logit_max)
    ratio, of_ratio = _largest(record.update_ratio)
    return (
        f"stability of step {record.step}: attention logit up to {logit:.4g} (layer {of_logit}) | residual RMS "
        f"{record.residual_rms[0]:.3g} to {record.residual_rms[-1]:.3g} | output logit up to {record.output_logit_max:.4g}, "
        f"log Z {record.log_denominator_mean:.4g} | update {ratio:.2e} of the weights (layer {of_ratio})"
    )


def _largest(values: Sequence[float]) -> tuple[float, int]:
    """Return the largest value and its layer; one that is no number counts as the largest."""
    layer = max(range(len(values)), key=lambda number: (values[number] != values[number], values[number]))
    return values[layer], layer
