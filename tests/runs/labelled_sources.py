"""Four sources for real runs: long and short documents, one that is read several times over, with columns and without."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from fanal.files import sha256_of_file
from fanal.records import record_bytes
from tokenizer.shards.manifest import documents_path, read_manifest, shard_paths, with_own_hash
from tokenizer.shards.shard import EncodeOptions, ShardWriter, open_shard
from tokenizer.vocabulary.load import load_tokenizer

NAMES = ("web", "books", "code", "poems")
"""The last one is tiny."""
COLUMNS = {
    "web": {
        "host": ["lemonde.fr", "bbc.co.uk", None, "example.org", "lemonde.fr"],
        "language": ["fr", "en", "de", None],
    },
    "poems": {"licence": ["cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0"]},
}
"""Values that the documents of a shard take in turn."""
LICENCES = {"books": "mit", "poems": None, "code": "apache-2.0", "web": "odc-by"}
LANGUAGES = {"books": "en", "poems": "fr", "code": None, "web": "mul"}


def labels_of(name: str, document: int) -> dict[str, str | None]:
    """What is said of a document of one of these shards: its columns, else the label of all."""
    own = {key: values[document % len(values)] for key, values in COLUMNS.get(name, {}).items()}
    return {
        "language": own.get("language") or LANGUAGES[name],
        "licence": own.get("licence") or LICENCES[name],
        "host": own.get("host"),
    }


def write_labelled_sources(data_folder: Path, folder: Path) -> list[str]:
    """Write the four shards, and two to validate on; return their prefixes, validation last."""
    tokenizer = load_tokenizer(data_folder / "tokenizer")
    begin = 0
    prefixes = []
    sizes = {"web": (9_000, 200), "books": (9_000, 40), "code": (4_000, 90), "poems": (700, 30)}
    for number, name in enumerate((*NAMES, "validation")):
        num_tokens, longest = sizes.get(name, (2_000, 60))
        draw = np.random.default_rng(number)
        shard = open_shard(data_folder / "shards" / ("train-prose" if number % 2 else "train-code"))
        text = np.asarray(shard.tokens[begin : begin + num_tokens])
        begin += num_tokens  # no two shards have the same text
        with ShardWriter(
            folder / name, vocab_size=tokenizer.vocab_size, tokenizer_sha256=tokenizer.model_sha256
        ) as writer:
            at = 0
            while at < len(text):
                length = int(draw.integers(1, longest + 1))
                writer.add_document(text[at : at + length])
                at += length
            writer.finish(
                domain=name, licence=LICENCES.get(name), language=LANGUAGES.get(name), source=f"made of {name}",
                input_files=[], options=EncodeOptions(append_bos=False, append_eos=False, text_field="text"),
            )  # fmt: skip
        if name in COLUMNS:
            put_columns(folder / name, COLUMNS[name])
        prefixes.append(str(folder / name))
    return prefixes


def put_columns(prefix: Path, columns: dict[str, list[str | None]]) -> None:
    """Give a shard columns whose values come in turn."""
    manifest = read_manifest(prefix)
    count = manifest.num_documents
    rows = {key: [values[number % len(values)] for number in range(count)] for key, values in columns.items()}
    of_all = {"file": ["a.jsonl"] * count, "position": range(1, count + 1)}
    path = documents_path(prefix)
    pyarrow.parquet.write_table(
        pyarrow.table({**of_all, **rows}), path, row_group_size=50, compression="zstd", write_page_checksum=True
    )
    named = dataclasses.replace(
        manifest, documents_sha256=sha256_of_file(path), documents_columns=("file", "position", *columns)
    )
    shard_paths(prefix)[2].write_bytes(record_bytes(with_own_hash(named)))
