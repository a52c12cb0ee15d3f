"""A run with every objective on shards whose samples hold several documents, and what must come out, by plain loops.

The loops are written from docs/objectives.md, on Python's integers: nothing of pretrain/data/objectives is called.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from pretrain.data.order import random_keys
from pretrain.data.read import TrainData
from tokenizer.shards.shard import EncodeOptions, ShardWriter, open_shard
from tokenizer.vocabulary.load import load_tokenizer

PREFIX, SUFFIX, MIDDLE = "<0x11>", "<0x12>", "<0x13>"
START, END = "<0x14>", "<0x15>"
"""Tokens of bytes that no text of the corpus holds: marks of these tests."""
GOLDFISH = "objective.goldfish={k: 4, h: 7}"
MASKED_SPANS = f'objective.mask_between=[{{start_token: "{START}", end_token: "{END}"}}]'
END_OF_DOCUMENT = "objective.eod_mask_loss=true"
FILL_IN_THE_MIDDLE = (
    f'objective.fill_in_the_middle={{rate: 0.4, spm_rate: 0.3, prefix_token: "{PREFIX}", suffix_token: "{SUFFIX}", '
    f'middle_token: "{MIDDLE}"}}'
)
SPAN_CORRUPTION = (
    'objective.span_corruption={rate: 0.35, noise_density: 0.2, mean_span_length: 2.5, sentinel_token: "<0x0{}>", '
    "num_sentinels: 9}"
)


def write_documents(data_folder: Path, folder: Path, *, longest: int, marks: bool = False) -> list[str]:
    """Cut the tests' shards into documents of 1 to ``longest`` tokens of text between <s> and </s>; in some, tokens of START and
    END stand at random. Returns: overrides that make the small run read them."""
    tokenizer = load_tokenizer(data_folder / "tokenizer")
    assert tokenizer.bos_id is not None
    ids = {tokenizer.piece(token): token for token in range(tokenizer.vocab_size)}
    for number, name in enumerate(("train-code", "train-prose", "validation-code", "validation-prose")):
        random = np.random.default_rng(number)
        tokens = np.asarray(open_shard(data_folder / "shards" / name).tokens)
        tokens = tokens[~np.isin(tokens, tokenizer.control_ids)].copy()
        if marks:
            at = random.random(tokens.size)
            tokens[at < 0.02] = ids[END]
            tokens[at < 0.01] = ids[START]
        with ShardWriter(
            folder / name, vocab_size=tokenizer.vocab_size, tokenizer_sha256=tokenizer.model_sha256
        ) as writer:
            position = 0
            while position < tokens.size - longest:
                length = int(random.integers(1, longest + 1))
                writer.add_document(
                    np.concatenate(([tokenizer.bos_id], tokens[position : position + length], [tokenizer.eos_id]))
                )
                position += length
            writer.finish(
                domain=name.split("-")[1], licence=None, source=None, input_files=[],
                options=EncodeOptions(append_bos=True, append_eos=True, text_field="text"),
            )  # fmt: skip
    return [
        f"data.train=[{{prefix: {folder}/train-code, weight: 2}}, {{prefix: {folder}/train-prose, weight: 1}}]",
        f"data.validation=[{{prefix: {folder}/validation-code}}, {{prefix: {folder}/validation-prose}}]",
    ]


@dataclass
class Taken:
    """What the objectives of a run make of some samples."""

    numbers: np.ndarray
    read: np.ndarray
    tokens: np.ndarray
    counted: np.ndarray
    starts: list[list[int]] = field(default_factory=list)
    places: list[tuple[Path, int]] = field(default_factory=list)


def take(data: TrainData, count: int = 1_000, first: int = 0) -> Taken:
    """The first samples of a run, as they are read and as they are trained on."""
    numbers = np.arange(first, first + count)
    sources, starts = data.places(numbers)
    read = data.read(numbers)
    tokens = read.copy()
    documents = data.document_starts(sources, starts)
    counted = data.apply_objectives(numbers, sources, starts, tokens, documents if data.reads_index else None)
    assert counted is not None, "an objective must be on"
    places = [
        (data.sources.train[source].shard.prefix, start)
        for source, start in zip(sources.tolist(), starts.tolist(), strict=True)
    ]
    return Taken(
        numbers=numbers,
        read=read,
        tokens=tokens,
        counted=counted,
        starts=[d.tolist() for d in documents],
        places=places,
    )


MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(value: int) -> int:
    """The finaliser of SplitMix64."""
    value &= MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def word(seed: int, sample: int, first: int, number: int) -> int:
    """Word ``number`` of a piece."""
    key = int(random_keys(f"{seed}/objective", 1)[0])
    return mix(mix(mix(key + sample) + first) + (number + 1) * GOLDEN)


def kept_by_goldfish(
    row: list[int], starts: list[int], *, k: int, h: int, exempt: set[int], within_documents: bool
) -> list[bool]:
    """Whether each token of a sample but the first counts."""
    counted = []
    for at in range(1, len(row)):
        begin = max([0, *(start for start in starts if start <= at)]) if within_documents else 0
        if at - begin < h or row[at] in exempt:
            counted.append(True)
            continue
        total = 0
        for back in range(1, h + 1):
            total += mix(row[at - back] + GOLDEN) * pow(0xD1342543DE82EF95, back - 1, 2**64)
        counted.append(mix(total) >= 2**64 // k)
    return counted


def kept_outside_spans(prefix: Path, first: int, length: int, start_id: int, end_id: int) -> list[bool]:
    """Whether each token of a sample but the first counts."""
    of_spans = tokens_of_spans(prefix, start_id, end_id)
    return [not of_spans[at] for at in range(first + 1, first + length)]


@lru_cache
def tokens_of_spans(prefix: Path, start_id: int, end_id: int) -> list[bool]:
    """Whether each token of a shard is of a span, read from the first one on."""
    shard = open_shard(prefix)
    begins = set(shard.document_offsets.tolist())
    inside, found = False, []
    for at, token in enumerate(np.asarray(shard.tokens).tolist()):
        if at in begins:
            inside = False
        found.append(inside or token == start_id)
        if token in (start_id, end_id):
            inside = token == start_id
    return found


def pieces_of(row: list[int], starts: list[int], control: set[int]) -> list[tuple[int, int, int]]:
    """(first token of the piece, first of its text, end of its text) of every piece that has text."""
    found = []
    for first, end in pairwise([0, *starts, len(row)]):
        text = [at for at in range(first, end) if row[at] not in control]
        if text:
            found.append((first, text[0], text[-1] + 1))
    return found
