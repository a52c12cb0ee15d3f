"""Overlap by its definition, in dictionaries of tuples; and shards of given tokens."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tokenizer.shards.shard import EncodeOptions, ShardWriter

VOCAB_SIZE = 600
Documents = Sequence[Sequence[int]]


def write_shard(prefix: Path, documents: Documents, *, bos: bool = False, eos: bool = False) -> Path:
    """A shard of these tokens; returns its prefix."""
    with ShardWriter(prefix, vocab_size=VOCAB_SIZE, tokenizer_sha256="1" * 64) as writer:
        for document in documents:
            writer.add_document(np.array(document))
        options = EncodeOptions(append_bos=bos, append_eos=eos, text_field="text")
        writer.finish(domain=None, licence=None, source=None, input_files=[], options=options)
    return prefix


@dataclass
class ByHand:
    """What the held-out documents share with the training documents of each shard."""

    num_ngrams: list[int]
    found: list[int]
    """Of each held-out document, places at which an n-gram begins that some training document holds."""
    sharing: list[int]
    """Of each held-out document, training documents that share an n-gram with it."""
    most: list[list[tuple[int, int, int]]]
    """Of each held-out document, (shared, shard, document), the most first."""
    overlapping: list[list[int]] = field(default_factory=list)
    """Of each shard, documents that share enough distinct n-grams with the held-out side."""


def ngrams_of(units: Sequence, n: int) -> list[tuple]:
    return [tuple(units[at : at + n]) for at in range(len(units) - n + 1)]


def overlap_by_hand(
    shards: Sequence[Sequence[Sequence]], held_out: Sequence[Sequence], n: int, min_ngrams: int
) -> ByHand:
    wanted = {ngram for document in held_out for ngram in ngrams_of(document, n)}
    holders: dict[tuple, set[tuple[int, int]]] = defaultdict(set)
    overlapping = []
    for shard_number, shard in enumerate(shards):
        overlapping.append([])
        for number, document in enumerate(shard):
            shared = wanted & set(ngrams_of(document, n))
            for ngram in shared:
                holders[ngram].add((shard_number, number))
            if len(shared) >= min_ngrams:
                overlapping[-1].append(number)
    result = ByHand([], [], [], [], overlapping)
    for document in held_out:
        ngrams = ngrams_of(document, n)
        counts: dict[tuple[int, int], int] = defaultdict(int)
        for ngram in set(ngrams):
            for place in holders.get(ngram, ()):
                counts[place] += 1
        result.num_ngrams.append(len(ngrams))
        result.found.append(sum(ngram in holders for ngram in ngrams))
        result.sharing.append(len(counts))
        most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        result.most.append([(count, *place) for place, count in most[:3]])
    return result
