"""Compare two models over the same texts, at every point and in the logits. No file is opened here."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pretrain.convert.certificate.texts import Text
from pretrain.convert.ours.model import OurModel
from pretrain.convert.theirs.model import CannotLoadError, TheirModel

BOUND = 1e-4
"""Largest absolute difference of a logit in fp32."""
STATE_BOUND = 1e-5
"""Largest difference of a state, as a share of the largest value there. It tells where two models differ first, not whether
they do: equal models of 32 layers reach 3e-6."""
BLOCK_POSITIONS = 256
"""Positions whose logits are in memory at a time."""


@dataclass(frozen=True, kw_only=True)
class PointFigures:
    """Differences of the states at one point of the model, over all texts."""

    name: str
    largest_difference: float
    largest_value: float
    """Largest absolute value of our model's states there."""

    @property
    def bound(self) -> float:
        """The difference allowed, in proportion to the values: states grow from layer to layer, some to thousands, and fp32 is
        as exact as they are small."""
        return STATE_BOUND * self.largest_value

    @property
    def is_within(self) -> bool:
        """Whether the difference is within the bound; NaN is not."""
        return self.largest_difference <= self.bound


@dataclass(frozen=True, kw_only=True)
class TextFigures:
    """Differences of the logits and the losses over one text."""

    name: str
    kind: str
    num_tokens: int
    largest_logit_difference: float
    top1_agreement: float
    """Share of the positions at which both find the same token most likely."""
    our_loss: float | None
    """Mean cross entropy of the next token, in nats; None for a text of one token."""
    their_loss: float | None


@dataclass(frozen=True, kw_only=True)
class ModelComparison:
    """Differences between two models at every point and over every text."""

    points: list[PointFigures] = field(default_factory=list)
    texts: list[TextFigures] = field(default_factory=list)

    @property
    def largest_logit_difference(self) -> float:
        """The largest difference of a logit over all texts; NaN if any is NaN."""
        return max_or_nan([text.largest_logit_difference for text in self.texts])

    @property
    def longest_text(self) -> int:
        """Number of tokens in the longest text."""
        return max(text.num_tokens for text in self.texts)

    @property
    def first_point_apart(self) -> PointFigures | None:
        """The first point whose states differ by more than the bound; None if there is none."""
        return next((point for point in self.points if not point.is_within), None)

    @property
    def is_within(self) -> bool:
        """Whether every logit is within the bound; NaN is not."""
        return self.largest_logit_difference <= BOUND


def compare(ours: OurModel, theirs: TheirModel, texts: Sequence[Text]) -> ModelComparison:
    """Run both models side by side: where both work layer by layer, one layer of each is in memory."""
    ids = [text.ids for text in texts]
    points = []
    for (name, left), (their_name, right) in zip(ours.points(ids), theirs.points(ids), strict=True):
        assert name == their_name, f"{name} is compared with {their_name}"
        pairs = zip(left, right, strict=True)
        points.append(
            PointFigures(
                name=name,
                largest_difference=max_or_nan([(a - b).abs().max().item() for a, b in pairs]),
                largest_value=max_or_nan([state.abs().max().item() for state in left]),
            )
        )
    return ModelComparison(
        points=points, texts=[_text(number, text, ours, theirs) for number, text in enumerate(texts)]
    )


def _text(number: int, text: Text, ours: OurModel, theirs: TheirModel) -> TextFigures:
    length = len(text.ids)
    widths = [side.logits(number, slice(0, 1)).shape[-1] for side in (ours, theirs)]
    if widths[0] != widths[1]:
        raise CannotLoadError(f"the exported model has logits for {widths[1]:,} tokens, expected {widths[0]:,}")
    differences: list[float] = []
    agreed, losses = 0, [0.0, 0.0]
    for first in range(0, length, BLOCK_POSITIONS):
        positions = slice(first, min(first + BLOCK_POSITIONS, length))
        both = [side.logits(number, positions) for side in (ours, theirs)]
        differences.append((both[0] - both[1]).abs().max().item())
        agreed += int((both[0].argmax(-1) == both[1].argmax(-1)).sum())
        labels = torch.from_numpy(text.ids[positions.start + 1 : positions.stop + 1])
        for side, logits in enumerate(both):
            losses[side] += torch.nn.functional.cross_entropy(logits[: len(labels)], labels, reduction="sum").item()
    return TextFigures(
        name=text.name,
        kind=text.kind,
        num_tokens=length,
        largest_logit_difference=max_or_nan(differences),
        top1_agreement=agreed / length,
        our_loss=losses[0] / (length - 1) if length > 1 else None,
        their_loss=losses[1] / (length - 1) if length > 1 else None,
    )


def our_losses(ours: OurModel, texts: Sequence[Text]) -> dict[str, float]:
    """Return the loss of our model alone on each text of two tokens or more."""
    for _ in ours.points([text.ids for text in texts]):
        pass
    found = {}
    for number, text in enumerate(texts):
        if len(text.ids) < 2:
            continue
        total = 0.0
        for first in range(0, len(text.ids) - 1, BLOCK_POSITIONS):
            positions = slice(first, min(first + BLOCK_POSITIONS, len(text.ids) - 1))
            labels = torch.from_numpy(text.ids[positions.start + 1 : positions.stop + 1])
            logits = ours.logits(number, positions)
            total += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        found[text.name] = total / (len(text.ids) - 1)
    return found


def mean_loss(texts: Sequence[TextFigures], side: str) -> float | None:
    """Return the mean loss per predicted token over the samples, edge cases left out; None without samples."""
    counted: list[Any] = [t for t in texts if t.kind != "edge" and getattr(t, side) is not None]
    tokens = sum(text.num_tokens - 1 for text in counted)
    return sum(getattr(text, side) * (text.num_tokens - 1) for text in counted) / tokens if tokens else None


def max_or_nan(values: Sequence[float]) -> float:
    """Return the largest value, or NaN if any value is NaN; the result of ``max`` would depend on their order."""
    return float(torch.tensor(values, dtype=torch.float64).max()) if values else 0.0
