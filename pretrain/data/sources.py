"""The shards of a configuration, opened and checked against the model, the tokenizer and each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pretrain.config.schema import DataConfig, RunConfig, SourceConfig
from pretrain.data.order import ChunkOrder
from tokenizer.load import load_tokenizer
from tokenizer.shards import Shard, open_shard


@dataclass(frozen=True, kw_only=True)
class Source:
    """One shard, ready to give its chunks in order."""

    shard: Shard
    domain: str
    weight: float
    order: ChunkOrder

    def chunk(self, rank_in_source: int) -> np.ndarray:
        """Tokens of one chunk, [seq_length + 1], a view of the memory map."""
        start = self.order.start_token(rank_in_source)
        return self.shard.tokens[start : start + self.order.seq_length + 1]


def open_sources(run: RunConfig) -> tuple[list[Source], list[Source]]:
    """(training sources, held-out sources) of a run.

    Raises: ValueError for a tokenizer that is missing or altered, a vocabulary smaller than the tokenizer's, a shard that
    is missing, damaged or made by another tokenizer, one shard on both sides, or a sequence longer than a source.
    """
    tokenizer = load_tokenizer(run.data.tokenizer)
    if run.model.vocab_size < tokenizer.vocab_size:
        raise ValueError(
            f"model.vocab_size ({run.model.vocab_size}) must be at least the {tokenizer.vocab_size} tokens of data.tokenizer "
            f"({run.data.tokenizer}); model.vocab_size={tokenizer.vocab_size} works"
        )
    train = [_open(source, run.data, tokenizer.model_sha256, shuffle=True) for source in run.data.train]
    held_out = [_open(source, run.data, tokenizer.model_sha256, shuffle=False) for source in run.data.held_out]
    _refuse_overlap(train, held_out)
    return train, held_out


def _open(config: SourceConfig, data: DataConfig, tokenizer_sha256: str, *, shuffle: bool) -> Source:
    shard = open_shard(config.prefix)
    manifest = shard.manifest
    if manifest.tokenizer_sha256 != tokenizer_sha256:
        raise ValueError(
            f"shard {config.prefix} was made by the tokenizer {manifest.tokenizer_sha256[:12]} and data.tokenizer "
            f"({data.tokenizer}) is {tokenizer_sha256[:12]}; name the tokenizer that made it, or encode the text again"
        )
    order = ChunkOrder(
        num_tokens=shard.num_tokens,
        seq_length=data.seq_length,
        key=f"{data.seed}/{Path(config.prefix).name}/{manifest.bin_sha256[:16]}" if shuffle else str(config.prefix),
        shuffle=shuffle,
    )
    domain = config.domain or manifest.domain or Path(config.prefix).name
    return Source(shard=shard, domain=domain, weight=config.weight, order=order)


def _refuse_overlap(train: Sequence[Source], held_out: Sequence[Source]) -> None:
    """The same tokens twice in training would be read in the same order from both places; held-out ones not at all."""
    trained: dict[str, Source] = {}
    for source in train:
        twin = trained.setdefault(source.shard.manifest.bin_sha256, source)
        if twin is not source:
            raise ValueError(
                f"data.train names the same tokens twice: {twin.shard.prefix} and {source.shard.prefix}; name them once, with "
                f"weight={twin.weight + source.weight:g}"
            )
    for source in held_out:
        if (twin := trained.get(source.shard.manifest.bin_sha256)) is not None:
            raise ValueError(
                f"data.held_out shard {source.shard.prefix} holds the same tokens as data.train shard {twin.shard.prefix}; "
                "held-out text must never be trained on: name another shard, or leave data.held_out empty"
            )
