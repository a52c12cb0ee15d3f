"""Perplexity and bits per byte of a checkpoint on the held-out text of its run, by what the shards say of their documents.

Nothing is exported: the weights are the checkpoint's masters, in the decoder that ``fanal generate`` has. Every document is read on
its own, from its first token on: behind a BOS every token of its text is predicted once; without one the first token has nothing
before it, and is not predicted. The end of a document is not predicted, since it has no bytes. lm-eval's
``loglikelihood_rolling`` has the same windows, but a BOS of its own in front of the tokenizer's.

Bits per byte compares models whose tokenizers differ: nats / ln 2 / bytes of the text in UTF-8 (Gao et al. 2020, "The Pile").
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from fanal.errors import UserError
from fanal.progress import Progress
from fanal.run_folder import CONFIG
from pretrain.config.load import load_run
from pretrain.convert.open_model import open_model
from pretrain.data.sources import Source, open_sources
from pretrain.evaluate.checkpoint import begun, choose
from pretrain.evaluate.windows import Window, batches_of, windows_of
from pretrain.inspect.generate import load_decoder
from pretrain.log.evaluation_file import PERPLEXITY, EvaluationFile, Figure, answered, check_place, record_evaluation
from pretrain.model.inference import InferenceDecoder
from tokenizer.shards.document_columns import open_columns
from tokenizer.shards.manifest import fanal_version
from tokenizer.shards.rows_in_turn import RowsInTurn

ALL, UNSTATED = "all", "not stated"
AHEAD_BATCHES = 32
"""Batches' worth of windows that are sorted by length together, so that little is filled up."""
MAX_LOGITS = 1 << 28
"""Logits that a batch computes, at most, as far as one row allows: 1 GiB in float32."""
LABELS_AT_ONCE = 2**12


@dataclass(frozen=True, kw_only=True)
class PerplexityRequest:
    """The options of ``fanal evaluate RUN_DIR --perplexity``."""

    by: str
    step: int | None = None
    limit: int | None = None
    """Documents of each shard, at most: the first ones."""
    device: str = "cpu"
    again: bool = False
    overrides: tuple[str, ...] = ()


@dataclass
class Sums:
    """What the documents of one group add up to."""

    nats: float = 0.0
    tokens: int = 0
    bytes: int = 0
    documents: int = 0


@dataclass(frozen=True)
class Document:
    """A held-out document."""

    ids: list[int] = field(repr=False)
    """Its ids without the end of the document."""
    num_bytes: int
    """Bytes of the text of the ids behind the first."""
    label: str


def evaluate_perplexity(run_dir: str | Path, wanted: PerplexityRequest) -> tuple[EvaluationFile, bool]:
    """Evaluate a checkpoint, and record it. Returns the record, and whether it was there already.

    Raises: UserError for a run without held-out shards, or one of which nothing says what is asked; DamagedCheckpointError.
    """
    began = time.monotonic()
    chosen = choose(run_dir, wanted.step)
    run = load_run(chosen.folder / CONFIG, wanted.overrides)
    held_out = open_sources(run).validation
    if not held_out:
        raise UserError(
            f"--perplexity needs held-out text, and {run_dir} has none: data.validation and data.validation_fraction are not set; "
            "the override data.validation=[{prefix: PREFIX}] names some"
        )
    question = {
        "by": wanted.by,
        "limit": wanted.limit,
        "shards": [
            {"prefix": str(source.shard.prefix), "identity": source.identity, "first_token": source.first_token}
            for source in held_out
        ],
    }
    versions = {"fanal": fanal_version(), "torch": torch.__version__}
    record = begun(chosen, PERPLEXITY, question=question, versions=versions, device=wanted.device)
    if not wanted.again and (known := answered(run_dir, record)) is not None:
        return known, True
    check_place(run_dir)
    with open_model(chosen.folder, tokenizer=run.data.tokenizer) as opened:
        decoder = load_decoder(opened, torch.device(wanted.device))
    codec = opened.codec
    documents = [
        document
        for source in held_out
        for document in documents_of(source, by=wanted.by, limit=wanted.limit, decode=codec.decode, ends=codec.eos_ids)
    ]
    sums = score(decoder, documents, max_length=opened.max_length)
    record = replace(
        record, time_unix_s=time.time(), elapsed_s=time.monotonic() - began, figures=tuple(figures_of(sums))
    )
    record_evaluation(run_dir, record)
    return record, False


def documents_of(
    source: Source, *, by: str, limit: int | None, decode: Callable[[list[int]], str], ends: frozenset[int]
) -> Iterator[Document]:
    """Yield the held-out documents of a shard that have something to predict. Args: ends: ids that end a document."""
    shard, first = source.shard, source.first_token
    begin = shard.documents_over(first, 1).start if first else 0
    end = shard.num_documents if limit is None else min(shard.num_documents, begin + limit)
    for number, label in zip(range(begin, end), labels_of(source, by, begin), strict=False):
        ids = shard.document(number).tolist()
        if ids and ids[-1] in ends:
            ids = ids[:-1]
        if len(ids) > 1:
            num_bytes = len(decode(ids).encode()) - len(decode(ids[:1]).encode())
            yield Document(ids=ids, num_bytes=num_bytes, label=label)


def labels_of(source: Source, by: str, begin: int) -> Iterator[str]:
    """Yield what is said of each document from ``begin`` on: by its own column, else by its shard's manifest or the config."""
    manifest = source.shard.manifest
    of_all = {
        "source": str(source.shard.prefix), "domain": source.domain, "language": manifest.language, "licence": manifest.licence,
    }.get(by)  # fmt: skip
    columns = open_columns(source.shard.prefix, manifest) if by != "source" else None
    names = [of_all or UNSTATED]
    if columns is None or by not in columns.names:
        yield from names * (manifest.num_documents - begin)
        return
    rows, left = RowsInTurn(columns, (by,)), manifest.num_documents
    while left:
        count = min(left, LABELS_AT_ONCE)
        values = rows.take(count).column(by).to_pylist()
        passed = manifest.num_documents - left
        yield from (value or names[0] for value in values[max(0, begin - passed) :])
        left -= count


def score(decoder: InferenceDecoder, documents: Sequence[Document], *, max_length: int) -> dict[str, Sums]:
    """Return what the documents add up to, by their label and in all. A window has ``max_length`` tokens before it, at most."""
    sums: dict[str, Sums] = {ALL: Sums()}
    for document in documents:
        for group in (sums[ALL], sums.setdefault(document.label, Sums())):
            group.tokens += len(document.ids) - 1
            group.bytes += document.num_bytes
            group.documents += 1
    rows = max(1, MAX_LOGITS // (max_length * len(decoder.output)))
    windows = (
        window
        for number, document in enumerate(documents)
        for window in windows_of(document.ids, max_length=max_length, document=number)
    )
    with Progress("perplexity", sums[ALL].tokens) as progress:
        done = 0
        for batch in batches_of(windows, rows=rows, ahead=rows * AHEAD_BATCHES):
            for window, nats in zip(batch, nats_of(decoder, batch), strict=True):
                sums[ALL].nats += nats
                sums[documents[window.document].label].nats += nats
                done += len(window.targets)
            progress.update(done)
    return sums


@torch.inference_mode()
def nats_of(decoder: InferenceDecoder, batch: Sequence[Window]) -> list[float]:
    """Return the sum of the losses of each window's targets, in nats. What fills a row up stands behind all that is scored."""
    longest = max(len(window.inputs) for window in batch)
    tokens = np.zeros((len(batch), longest), np.int64)
    for row, window in zip(tokens, batch, strict=True):
        row[: len(window.inputs)] = window.inputs
    logs = decoder.logits(torch.from_numpy(tokens)).log_softmax(-1)  # [b, s, v]
    found = []
    for row, window in zip(logs, batch, strict=True):
        end = len(window.inputs)
        targets = torch.tensor(window.targets, device=row.device)
        scored = row[end - len(targets) : end].gather(1, targets[:, None])
        found.append(-scored.double().sum().item())
    return found


def figures_of(sums: dict[str, Sums]) -> Iterator[Figure]:
    """Yield loss, perplexity and bits per byte of each group, of all first."""
    for name in [ALL, *sorted(name for name in sums if name != ALL)]:
        found = sums[name]
        if not found.tokens:
            continue
        loss = found.nats / found.tokens
        values = {
            "loss": loss,
            "perplexity": math.exp(loss) if loss < 700 else None,
            "bits_per_byte": found.nats / math.log(2) / found.bytes if found.bytes else None,
        }
        for metric, value in values.items():
            yield Figure(
                task=name, metric=metric, value=value, num_samples=found.documents, higher_is_better=False,
                num_tokens=found.tokens, num_bytes=found.bytes,
            )  # fmt: skip
