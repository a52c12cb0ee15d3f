"""The exported model's loss on the very samples that its run was validated on, beside what the run logged at that step.

Both sides of the other comparisons come from the checkpoint. The log comes from the training itself, from its own softmax and its
own masks, so a difference between training and export that both sides share is seen here.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from fanal.run_progress import newest_metrics
from pretrain.convert.certificate.compare import BLOCK_POSITIONS
from pretrain.convert.ours.model import OurModel
from pretrain.convert.ours.source import ExportSource
from pretrain.convert.theirs.model import TheirModel
from pretrain.data.documents import predictable, starts_in_chunk
from pretrain.data.objectives.samples import Samples, new_counts
from pretrain.data.sources import Source
from pretrain.model.families.sizes import num_parameters
from pretrain.optim.registry import MASTER

BOUNDS = {"float32": 1e-4, "bfloat16": 2e-2}
"""Largest difference of a mean loss, in nats, by the precision of the training; the export computes in fp32."""
MAX_FLOPS = 5e12
"""FLOPs that are spent unasked, a minute of a small machine; ``--samples`` asks for more."""
TEXTS_AT_A_TIME = 8
"""Samples whose states are in memory together."""
LONGEST_NAMES = 500
"""Characters of the names of domains in a message."""
NOT_COUNTED = -100
"""Label of a prediction that does not count; torch's own number for it."""


@dataclass(frozen=True, kw_only=True)
class DomainLoss:
    """Mean cross entropy per token of one domain's validation samples, in nats."""

    domain: str
    num_samples: int
    logged: float
    exported: float


@dataclass(frozen=True, kw_only=True)
class LoggedLoss:
    """The comparison with the log, or why there is none."""

    domains: tuple[DomainLoss, ...] = ()
    bound: float = 0.0
    why_not: str | None = None
    """Reason for no comparison; None where there is one."""

    @property
    def apart(self) -> DomainLoss | None:
        """The domain whose losses differ most, if by more than the bound; None otherwise. NaN on both sides is no difference."""
        differences = {domain.domain: _difference(domain) for domain in self.domains}
        worst = max(self.domains, key=lambda domain: differences[domain.domain], default=None)
        return worst if worst is not None and differences[worst.domain] > self.bound else None

    @property
    def rows_took_part(self) -> bool:
        """Whether every loss is lower than the log's, as where the training's softmax had more rows than the tokenizer tokens."""
        return self.apart is not None and all(domain.exported < domain.logged for domain in self.domains)


def compare_with_log(
    source: ExportSource, model: TheirModel | OurModel, *, num_samples: int, weights_dtype: str
) -> LoggedLoss:
    """Compute the validation loss of the step with the exported model, if the run logged it.

    Args: num_samples: the samples that ``--samples`` asked for; weights_dtype: precision of the training.
    """
    why_not, logged = _logged(source)
    # As an earlier version has it, however many they are.
    of_domains = logged.keys() == {part.domain for part in _sources(source)}
    if why_not is None and _flops(source) > MAX_FLOPS and num_samples < _num_samples(source):
        why_not = f"it takes {_num_samples(source):,} samples; --samples {_num_samples(source)} compares them"
    if why_not is not None:
        return LoggedLoss(why_not=why_not)
    sums: dict[str, tuple[float, int, int]] = {}
    for part in _sources(source):
        loss, tokens = _loss_and_tokens(model, list(_texts(part, source)))
        name = part.domain if of_domains else part.label
        before = sums.get(name, (0.0, 0, 0))
        sums[name] = (before[0] + loss, before[1] + tokens, before[2] + _samples_of(part, source))
    return LoggedLoss(
        domains=tuple(
            DomainLoss(
                domain=domain,
                num_samples=samples,
                logged=logged[domain],
                exported=loss / tokens if tokens else math.nan,
            )
            for domain, (loss, tokens, samples) in sums.items()
        ),
        bound=BOUNDS[weights_dtype],
    )


def _logged(source: ExportSource) -> tuple[str | None, dict[str, float]]:
    """Return why there is nothing to compare with, or the logged losses by domain."""
    if source.run is None:
        return "an import has no log", {}
    if source.average is not None:
        return "the log is of the weights of single steps, and these are their mean", {}
    if source.sources is None:
        return "the run's shards were not read", {}
    if not source.sources.validation:
        return "the run has no validation data", {}
    key = "validation_loss" if source.weights_state == MASTER else "ema_validation_loss"
    found = next(
        (
            record.get(key)
            for record in newest_metrics(source.folder.parent.parent, kinds=("validation",))
            if record.get("step") == source.state.step
        ),
        None,
    )
    if found is None:
        of = "" if source.weights_state == MASTER else " of the moving average (train.validate_ema)"
        return f"the log beside the checkpoint has no validation{of} after step {source.state.step}", {}
    logged = {domain: math.nan if loss is None else float(loss) for domain, loss in found.items()}
    if logged.keys() not in ({part.domain for part in _sources(source)}, {part.label for part in _sources(source)}):
        return f"the log names the domains {_names(logged)}, and data.validation has others", {}
    return None, logged


def _names(logged: dict[str, float]) -> str:
    names = ", ".join(sorted(logged))
    return names if len(names) <= LONGEST_NAMES else names[: LONGEST_NAMES - 3] + "..."


def _sources(source: ExportSource) -> Sequence[Source]:
    return source.sources.validation if source.sources is not None else ()


def _samples_of(part: Source, source: ExportSource) -> int:
    assert source.run is not None, "the caller has looked"
    return min(source.run.train.validation_samples, part.order.chunks_per_epoch)


def _num_samples(source: ExportSource) -> int:
    return sum(_samples_of(part, source) for part in _sources(source))


def _flops(source: ExportSource) -> float:
    return 2.0 * num_parameters(source.model) * _num_samples(source) * source.seq_length


def _texts(part: Source, source: ExportSource) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (ids, labels) of the samples as the trainer validates on them: int64 [s] each, documents apart if they were."""
    assert source.run is not None and source.sources is not None, "the caller has looked"
    length, objectives = source.seq_length, source.sources.objectives
    for draw in range(_samples_of(part, source)):
        start = part.start_token(draw)
        tokens = np.asarray(part.shard.tokens[start : start + length + 1]).astype(np.int64)
        ids, labels = tokens[:-1], np.where(tokens[1:] == part.pad_id, NOT_COUNTED, tokens[1:])
        apart = source.run.data.document_mask
        starts = starts_in_chunk(part.shard, start, length) if apart or objectives.reads_index else np.empty(0, int)
        sample = Samples(
            numbers=np.zeros(1, int),
            tokens=tokens[None],
            counted=new_counts(tokens[None]),
            document_starts=[starts],
            shards=[part.shard],
            pieces=[[(0, start)]],
        )
        for objective in objectives.validation:
            objective.apply(sample)
        labels = np.where(sample.counted[0], labels, NOT_COUNTED)
        if not apart:
            yield ids, labels
            continue
        labels = np.where(predictable([starts], length)[0], labels, NOT_COUNTED)
        cuts = [0, *starts[starts < length].tolist(), length]
        yield from ((ids[first:last], labels[first:last]) for first, last in pairwise(cuts))


def _loss_and_tokens(model: TheirModel | OurModel, texts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[float, int]:
    """Return the sum of the losses of all labels that count, and their number."""
    loss, tokens = 0.0, 0
    for start in range(0, len(texts), TEXTS_AT_A_TIME):
        some = texts[start : start + TEXTS_AT_A_TIME]
        for _ in model.points([ids for ids, _ in some]):
            pass
        for number, (ids, labels) in enumerate(some):
            for first in range(0, len(ids), BLOCK_POSITIONS):
                positions = slice(first, min(first + BLOCK_POSITIONS, len(ids)))
                expected = torch.from_numpy(labels[positions])
                logits = model.logits(number, positions)
                loss += torch.nn.functional.cross_entropy(
                    logits, expected, reduction="sum", ignore_index=NOT_COUNTED
                ).item()
            tokens += int((labels != NOT_COUNTED).sum())
    return loss, tokens


def _difference(domain: DomainLoss) -> float:
    """Return the difference; infinite where one of the two alone is NaN."""
    if math.isnan(domain.logged) or math.isnan(domain.exported):
        return 0.0 if math.isnan(domain.logged) and math.isnan(domain.exported) else math.inf
    return abs(domain.exported - domain.logged)
