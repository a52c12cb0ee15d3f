"""What mlcroissant and cffconvert make of a draft: ``python -m tests.interop.hub_readers PROGRAM FILE``; the answer is JSON.

Each runs in a process of its own, since it comes from another environment than the tests.
"""

import json
import sys
from typing import Any


def mlcroissant(file: str) -> dict[str, Any]:
    """The data set as the library has loaded it, and every record of every record set."""
    import mlcroissant as mlc

    dataset = mlc.Dataset(jsonld=file)
    metadata = dataset.metadata
    return {
        "name": metadata.name,
        "errors": sorted(metadata.ctx.issues.errors),
        "warnings": sorted(metadata.ctx.issues.warnings),
        "files": {each.id: [each.name, each.content_size, each.sha256] for each in metadata.distribution},
        "records": {
            each.id: [{name: _plain(value) for name, value in record.items()} for record in dataset.records(each.id)]
            for each in metadata.record_sets
        },
    }


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return None if value is None or value != value else int(value)


def cffconvert(file: str) -> dict[str, Any]:
    """Whether the file is valid, and the reference that is made of it."""
    from pathlib import Path

    from cffconvert import Citation

    citation = Citation(Path(file).read_text(encoding="utf-8"))
    citation.validate()
    return {"version": citation.cffversion, "bibtex": citation.as_bibtex()}


def main(program: str, file: str) -> None:
    """Print what a program says of a file."""
    print(json.dumps({"mlcroissant": mlcroissant, "cffconvert": cffconvert}[program](file)))


if __name__ == "__main__":
    main(*sys.argv[1:])
