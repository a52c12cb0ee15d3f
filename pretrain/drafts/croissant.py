"""A Croissant file (MLCommons' vocabulary for data sets) of the shards that a run was trained on, as JSON-LD.

Each file of a shard is a FileObject with its size and SHA-256, each column file a RecordSet with a Field for each column. Paths are
relative to the folder that all shards lie in, so that the file can be used where it is put there.

Source: Croissant Format Specification 1.0, and its extension for responsible AI 1.0 (https://docs.mlcommons.org/croissant/).
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from fanal.errors import user_path
from fanal.files import sha256_of_file
from fanal.shown import on_one_line
from pretrain.drafts.draft import TO_BE_STATED
from pretrain.drafts.facts import Facts
from tokenizer.documents.column_fields import FILE, POSITION
from tokenizer.shards.manifest import ShardManifest, documents_path, read_manifest, shard_paths

VERSION = "http://mlcommons.org/croissant/1.0"
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context that the specification gives: readers compare a file's own with it."""
STATED_BY_THE_PROVIDER = (
    "rai:dataCollection", "rai:dataCollectionType", "rai:dataUseCases", "rai:dataBiases", "rai:dataLimitations",
    "rai:dataSocialImpact", "rai:personalSensitiveInformation", "rai:dataReleaseMaintenancePlan",
)  # fmt: skip
"""Of the extension for responsible AI, what is asked of any text and no file of a run tells."""
LEFT_OUT = "datePublished, version and url, whose form allows no blank"
COLUMNS = {
    FILE: "input file, as the manifest of the shard spells it",
    POSITION: "line of that file from 1, row of a Parquet file from 0, or 0 where the file is the document",
    "id": "the document's own name",
    "host": "registrable domain of its URL, by the public suffix list",
    "licence": "licence, as the document says",
    "language": "language, as the document says",
    "date": "date, as the document says",
}
"""What a column of each name holds; others are fields that were kept on request."""


@dataclass(frozen=True, kw_only=True)
class _Shard:
    number: int
    """Its place in the ledger's ``data.sources``."""
    place: str
    """Its prefix from the folder of all shards on."""
    prefix: Path
    known: Mapping[str, Any]
    manifest: ShardManifest

    @property
    def where(self) -> str:
        return f"ledger data.sources[{self.number}]"


def render(facts: Facts) -> str:
    """Return the file's text. Raises: as ``croissant``."""
    return json.dumps(croissant(facts), indent=2, ensure_ascii=False) + "\n"


def croissant(facts: Facts) -> dict[str, Any]:
    """Return the data set that a run was trained on. Reads manifests, and no token: the SHA-256 of a file of tokens above 64 MiB,
    which no manifest holds, is a blank, unless ``facts.deep`` allows to read it.

    Raises: ShardError, DamagedShardError if a shard is gone or was altered since the ledger was made.
    """
    shards = _shards(facts.ledger)
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": VERSION,
        "name": f"{facts.run_name}: training data",
        "description": _description(facts),
        "citeAs": TO_BE_STATED,
        "creator": {"@type": "sc:Organization", "name": TO_BE_STATED},
        "license": [*_names(facts, "licence"), TO_BE_STATED],
        "inLanguage": _names(facts, "language"),
        **dict.fromkeys(STATED_BY_THE_PROVIDER, TO_BE_STATED),
        "rai:dataPreprocessingProtocol": _preprocessing(shards),
        "distribution": [file for shard in shards for file in _files(shard, deep=facts.deep)],
        "recordSet": [_record_set(shard) for shard in shards if shard.manifest.documents_sha256 is not None],
    }


def _shards(ledger: Mapping[str, Any]) -> list[_Shard]:
    prefixes = [Path(source["prefix"]).absolute() for source in ledger["data"]["sources"]]
    folder = os.path.commonpath([prefix.parent for prefix in prefixes])
    found = []
    for number, (prefix, source) in enumerate(zip(prefixes, ledger["data"]["sources"], strict=True)):
        place = PurePosixPath(os.path.relpath(prefix, folder)).as_posix()
        manifest = read_manifest(prefix, with_inputs=False)
        found.append(_Shard(number=number, place=place, prefix=prefix, known=source, manifest=manifest))
    return found


def _description(facts: Facts) -> str:
    ledger = facts.ledger
    sources = ledger["data"]["sources"]
    documents = sum(source["num_documents"] for source in sources)
    return (
        f"Draft, filled from the ledger of a training run and the manifests of its shards, and from nothing else. {len(sources):,} "
        f"token shards with {documents:,} documents and {sum(source['num_tokens'] for source in sources):,} tokens (ledger "
        f"data.sources), of which training read {ledger['data']['tokens']:,} tokens, repetitions counted (ledger data.tokens). "
        "contentUrl is relative to the folder that all shards lie in; SHA-256 are those of the manifests. To be stated by "
        f'the provider: each value "{TO_BE_STATED}", the licence of the whole, the URL from which the files can be had, and '
        f"{LEFT_OUT}."
    )


def _names(facts: Facts, dimension: str) -> list[str]:
    """What documents say of themselves, or their shards, as far as it was read; the most read first."""
    found = facts.ledger["data"]["in_all"][f"by_{dimension}"]
    return [on_one_line(entry["name"]) for entry in found if entry["name"] is not None and entry["tokens"]]


def _preprocessing(shards: list[_Shard]) -> list[str]:
    """What was done to the documents, as far as manifests tell."""
    lines = [
        f"{on_one_line(shard.place)}: {exclusion['num_documents']:,} documents of {exclusion['num_tokens']:,} tokens were removed: "
        f"{on_one_line(exclusion['reason'])} ({shard.where}.exclusions)"
        for shard in shards
        for exclusion in shard.known["exclusions"]
    ]
    return [*lines, TO_BE_STATED]


def _files(shard: _Shard, *, deep: bool) -> Iterator[dict[str, Any]]:
    """The files of a shard: tokens, index, manifest, and columns where there are some."""
    manifest = shard.manifest
    tokens, index, described = shard_paths(shard.prefix)
    what = f"{manifest.num_tokens:,} tokens of {manifest.num_documents:,} documents, {manifest.dtype} little-endian"
    whole = manifest.bin_sha256 if len(manifest.bin_block_sha256) == 1 else None
    note = ""
    if whole is None and deep:
        whole = sha256_of_file(tokens)
    elif whole is None:
        note = "; the manifest has the SHA-256 of each 64 MiB, and sha256sum gives that of the file"
    yield _file(shard, tokens, f"{what} ({shard.where}){note}", whole or TO_BE_STATED, "application/octet-stream")
    yield _file(shard, index, "Megatron's index of the documents", manifest.idx_sha256, "application/octet-stream")
    yield _file(
        shard, described, "manifest: labels, hashes, input files", sha256_of_file(described), "application/json"
    )
    if manifest.documents_sha256 is not None:
        columns = f"what is known of each document ({shard.where}.documents_sha256)"
        path = documents_path(shard.prefix)
        yield _file(shard, path, columns, manifest.documents_sha256, "application/x-parquet")


def _file(shard: _Shard, path: Path, what: str, sha256: str, media_type: str) -> dict[str, Any]:
    with user_path(path):
        num_bytes = path.stat().st_size
    name = shard.place + path.name.removeprefix(shard.prefix.name)
    return {
        "@type": "cr:FileObject",
        "@id": _reference(name),
        "name": on_one_line(name),
        "description": what,
        "contentUrl": _reference(name),
        "contentSize": f"{num_bytes} B",
        "encodingFormat": media_type,
        "sha256": sha256,
    }


def _record_set(shard: _Shard) -> dict[str, Any]:
    record_set = f"{_reference(shard.place)}#documents"
    file = _reference(documents_path(shard.place).as_posix())
    return {
        "@type": "cr:RecordSet",
        "@id": record_set,
        "name": f"{on_one_line(shard.place)}: documents",
        "description": f"One record a document, in the order of the shard ({shard.where}.num_documents).",
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{record_set}/{quote(name, safe='')}",
                "name": on_one_line(name),
                "description": COLUMNS.get(name, "a field of the input, kept on request"),
                "dataType": "sc:Integer" if name == POSITION else "sc:Text",
                "source": {"fileObject": {"@id": file}, "extract": {"column": name}},
            }
            for name in shard.manifest.documents_columns
        ],
    }


def _reference(place: str) -> str:
    """A path as a relative reference of an URL, whatever its name holds, in ASCII."""
    return quote(os.fsencode(place), safe="/")
