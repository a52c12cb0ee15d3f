"""What both models read for the certificate: held-out text of the run, and cases at the edges."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pretrain.convert.export_source import ExportSource
from pretrain.convert.export_tokenizer import ExportTokenizer
from pretrain.data.sources import Source

BUILT_IN = (
    "The lamp at the stern of a ship is called a fanal. It tells those who follow where the ship is, and nothing else.\n",
    "Wer misst, misst Mist, sagen manche; wer nicht misst, weiß nicht einmal das.\n",
    "def area(width: float, height: float) -> float:\n    return width * height\n",
    "La mer est grande, 1 234 567 vagues par jour, et le phare n'en compte aucune.\n",
    "海は広く、灯台は高い。2026年も船は通る。\n",
)
"""Where no shard is at hand."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """Ids that both models read."""

    name: str
    kind: str
    """``held-out``, ``training``, ``built-in`` or ``edge``."""
    ids: np.ndarray
    """int64 [s], at most seq_length of them."""


def certificate_texts(source: ExportSource, *, num_samples: int) -> list[Text]:
    """``num_samples`` whole samples, held out if the run has any, and the edges: one token, a boundary between documents.

    The samples have the full seq_length.
    """
    samples = _samples(source, num_samples)
    first = samples[0].ids
    texts = [*samples, Text(name="one token", kind="edge", ids=first[:1]), _boundary(source, samples)]
    if len(first) < source.seq_length:
        repeated = np.resize(first, source.seq_length)
        texts.append(Text(name=f"text of full length, {source.seq_length} tokens", kind="edge", ids=repeated))
    return texts


def _samples(source: ExportSource, num_samples: int) -> list[Text]:
    if source.sources is None:
        return [_built_in(source.tokenizer, source.seq_length)]
    held_out = source.sources.held_out
    chosen, kind = (held_out, "held-out") if held_out else (source.sources.train, "training")
    texts = []
    for number in range(num_samples):
        shard_source = chosen[number % len(chosen)]
        rank = number // len(chosen)
        if rank < shard_source.order.chunks_per_epoch:
            texts.append(_chunk(shard_source, rank, kind, source.seq_length))
    return texts


def _chunk(source: Source, rank: int, kind: str, seq_length: int) -> Text:
    start = source.start_token(rank)
    ids = np.asarray(source.shard.tokens[start : start + seq_length]).astype(np.int64)
    return Text(name=f"{source.shard.prefix.name}, tokens {start} to {start + len(ids) - 1}", kind=kind, ids=ids)


def _built_in(tokenizer: ExportTokenizer, seq_length: int) -> Text:
    if tokenizer.processor is not None:
        ids = tokenizer.processor.Encode(tokenizer.prepare("".join(BUILT_IN)))
    else:  # an import without SentencePiece's model: ids alone, spread over the vocabulary
        ids = list(range(0, tokenizer.vocab_size, max(1, tokenizer.vocab_size // 256)))
    return Text(name="built-in text", kind="built-in", ids=np.array(ids[:seq_length], np.int64))


def _boundary(source: ExportSource, samples: Sequence[Text]) -> Text:
    """The end of a document and the begin of the next one, where the shards have two."""
    for shard_source in [*source.sources.held_out, *source.sources.train] if source.sources is not None else ():
        shard = shard_source.shard
        starts = shard.documents_in(1, min(shard.num_tokens - 1, 1 << 20))
        if len(starts):
            half = source.seq_length // 2
            first = max(0, int(starts[0]) - half)
            ids = np.asarray(shard.tokens[first : first + source.seq_length]).astype(np.int64)
            return Text(name=f"text whose token {int(starts[0]) - first} begins a document", kind="edge", ids=ids)
    ids = samples[0].ids
    eos = source.tokenizer.eos_id
    middle = np.array([eos if isinstance(eos, int) else 0], np.int64)
    half = len(ids) // 2
    joined = np.concatenate([ids[:half], middle, ids[: len(ids) - half - 1]])
    return Text(name=f"text whose token {half} ends a document", kind="edge", ids=joined[: source.seq_length])
