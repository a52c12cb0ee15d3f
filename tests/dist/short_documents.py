"""Shards of documents so short that every sample holds several, for runs that keep documents apart.

Every document begins with <s>, which is nowhere else, so that tokens alone tell where documents begin.
"""

from pathlib import Path

import numpy as np

from tokenizer.shards.shard import EncodeOptions, ShardWriter, open_shard
from tokenizer.vocabulary.load import load_tokenizer

LONGEST = 24
"""Tokens of the longest document; samples of the tests' small run predict 64."""


def write_short_documents(data_folder: Path, folder: Path) -> list[str]:
    """Cut the tests' shards into documents of 1 to LONGEST tokens; one in four ends in padding.

    Returns: overrides that make the small run read them, documents kept apart.
    """
    tokenizer = load_tokenizer(data_folder / "tokenizer")
    prefixes = {}
    for number, name in enumerate(("train-code", "train-prose", "validation-code", "validation-prose")):
        random = np.random.default_rng(number)
        tokens = np.asarray(open_shard(data_folder / "shards" / name).tokens)
        tokens = tokens[~np.isin(tokens, tokenizer.control_ids)]
        prefixes[name] = folder / name
        with ShardWriter(
            prefixes[name], vocab_size=tokenizer.vocab_size, tokenizer_sha256=tokenizer.model_sha256
        ) as writer:
            position = 0
            while position < tokens.size - LONGEST:
                length = int(random.integers(1, LONGEST + 1))
                document = np.concatenate(([tokenizer.bos_id], tokens[position : position + length - 1]))
                position += length
                if random.integers(4) == 0:
                    document[length // 2 + 1 :] = tokenizer.pad_id
                writer.add_document(document)
            writer.finish(
                domain=name.split("-")[1], licence=None, source=None, input_files=[],
                options=EncodeOptions(append_bos=True, append_eos=False, text_field="text"),
            )  # fmt: skip
    return [
        f"data.train=[{{prefix: {prefixes['train-code']}, weight: 2}}, {{prefix: {prefixes['train-prose']}, weight: 1}}]",
        f"data.validation=[{{prefix: {prefixes['validation-code']}}}, {{prefix: {prefixes['validation-prose']}}}]",
        "data.document_mask=true",
    ]
