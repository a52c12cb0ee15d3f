"""Texts that both models read for the certificate: validation text of the run, and edge cases."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from fanal.errors import UserError
from fanal.host_memory import host_memory
from pretrain.config.derive import kv_channels
from pretrain.config.schema import ModelConfig
from pretrain.convert.ours.source import ExportSource
from pretrain.convert.ours.tokenizer_files import ExportTokenizer
from pretrain.data.sources import Source
from tokenizer.shards.verify import check_tokens

BUILT_IN = (
    "The lamp at the stern of a ship is called a fanal. It tells those who follow where the ship is, and nothing else.\n",
    "Wer misst, misst Mist, sagen manche; wer nicht misst, weiß nicht einmal das.\n",
    "def area(width: float, height: float) -> float:\n    return width * height\n",
    "La mer est grande, 1 234 567 vagues par jour, et le phare n'en compte aucune.\n",
    "海は広く、灯台は高い。2026年も船は通る。\n",
)
"""Texts for a certificate made without shards."""
LONGEST_TEXT = 32_768
"""Largest number of tokens in a text repeated to full length: the time of attention grows with its square."""
SHARE_OF_MEMORY = 0.5
"""Share of the available memory that texts may take."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """One text, as ids that both models read."""

    name: str
    kind: str
    """``validation``, ``training``, ``built-in`` or ``edge``."""
    ids: np.ndarray
    """int64 [s], at most seq_length of them."""


def certificate_texts(source: ExportSource, *, num_samples: int) -> list[Text]:
    """Return ``num_samples`` complete samples, of the validation data if there is any, and the edge cases.

    The samples have the full seq_length. A built-in text is repeated to it, or to as much as fits. The edge cases are a text of
    one token and one with a document boundary.
    """
    samples = _samples(source, num_samples)
    first = samples[0].ids
    texts = [*samples, Text(name="one token", kind="edge", ids=first[:1]), _boundary(source, samples)]
    if len(first) < source.seq_length:
        length = max(
            len(first), min(source.seq_length, LONGEST_TEXT, _bytes_for_texts() // sum(_token_bytes(source.model)))
        )
        name = f"text of full length, {length} tokens"
        if length < source.seq_length:
            name = f"text of {length} tokens (the full length, {source.seq_length}, was not compared)"
        texts.append(Text(name=name, kind="edge", ids=np.resize(first, length)))
    return texts


def check_samples(source: ExportSource, num_samples: int) -> None:
    """Warn, before hours of work, if there are fewer samples than requested. Raises: UserError if they do not fit in memory."""
    if source.sources is None:
        return
    chosen, kind = _chosen(source)
    there = sum(shard_source.order.chunks_per_epoch for shard_source in chosen)
    if num_samples > there:
        print(
            f"warning: --samples ({num_samples:,}) is more than the {there:,} samples of {source.seq_length:,} tokens in the "
            f"{kind} text; all of them are compared",
            file=sys.stderr,
        )
    state, widest = (size * source.seq_length for size in _token_bytes(source.model))
    works = max(1, (_bytes_for_texts() - widest) // state)
    if min(num_samples, there) > works:
        raise UserError(
            f"--samples ({num_samples:,}) needs {min(num_samples, there) * state + widest:,} bytes for the states of its tokens, "
            f"and texts may take {_bytes_for_texts():,} bytes, half of the available memory; {works} works"
        )


def _bytes_for_texts() -> int:
    return int(SHARE_OF_MEMORY * host_memory().available_bytes)


def _token_bytes(model: ModelConfig) -> tuple[int, int]:
    """Return the bytes that a token takes while both models run layer by layer: its states, three in each model; and, for one
    text at a time, the widest part of a layer."""
    attention = 3 * (model.num_attention_heads + 2 * model.num_query_groups) * kv_channels(model)
    return 4 * 6 * model.hidden_size, 4 * max(attention, 4 * model.ffn_hidden_size)


def _chosen(source: ExportSource) -> tuple[Sequence[Source], str]:
    """Return the shards that samples are taken from, and the kind of their text."""
    assert source.sources is not None, "the caller has looked"
    validation = source.sources.validation
    return (validation, "validation") if validation else (source.sources.train, "training")


def _samples(source: ExportSource, num_samples: int) -> list[Text]:
    if source.sources is None:
        return [_built_in(source.tokenizer, source.seq_length)]
    chosen, kind = _chosen(source)
    most = max(shard_source.order.chunks_per_epoch for shard_source in chosen)
    places = (
        (shard_source, draw)
        for draw in range(most)
        for shard_source in chosen
        if draw < shard_source.order.chunks_per_epoch
    )
    return [_sample(*place, kind, source.seq_length) for place in islice(places, num_samples)]


def _sample(source: Source, draw: int, kind: str, seq_length: int) -> Text:
    start = source.start_token(draw)
    ids = np.asarray(source.shard.tokens[start : start + seq_length]).astype(np.int64)
    check_tokens(source.shard, start, len(ids))  # altered text would be compared just as well, and its loss be told
    return Text(name=f"{source.shard.prefix.name}, tokens {start} to {start + len(ids) - 1}", kind=kind, ids=ids)


def _built_in(tokenizer: ExportTokenizer, seq_length: int) -> Text:
    ids: list[int] = []
    if tokenizer.encode is not None:
        ids = tokenizer.encode("".join(BUILT_IN))
    if (
        not ids or max(ids) >= tokenizer.vocab_size
    ):  # an import without SentencePiece's model, or with one of more pieces
        ids = list(range(0, tokenizer.vocab_size, max(1, tokenizer.vocab_size // 256)))  # spread over the vocabulary
    return Text(name="built-in text", kind="built-in", ids=np.array(ids[:seq_length], np.int64))


def _boundary(source: ExportSource, samples: Sequence[Text]) -> Text:
    """Return a text with the end of a document and the start of the next one, from the shards where they have two."""
    for shard_source in [*source.sources.validation, *source.sources.train] if source.sources is not None else ():
        shard = shard_source.shard
        starts = shard.documents_in(1, min(shard.num_tokens - 1, 1 << 20))
        if len(starts):
            half = source.seq_length // 2
            first = max(0, int(starts[0]) - half)
            ids = np.asarray(shard.tokens[first : first + source.seq_length]).astype(np.int64)
            check_tokens(shard, first, len(ids))
            return Text(name=f"text whose token {int(starts[0]) - first} starts a document", kind="edge", ids=ids)
    ids = samples[0].ids
    eos = source.tokenizer.eos_id
    middle = np.array(([*eos, 0] if isinstance(eos, list) else [eos or 0])[:1], np.int64)
    half = len(ids) // 2
    joined = np.concatenate([ids[:half], middle, ids[: len(ids) - half - 1]])
    return Text(name=f"text whose token {half} ends a document", kind="edge", ids=joined[: source.seq_length])
