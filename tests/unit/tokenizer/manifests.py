"""Manifests that say something else than their writer did, as a faulty writer's would: every hash in them fits."""

import json
from pathlib import Path

from fanal.records import own_hash
from tokenizer.shards.manifest import OWN_HASH


def edit_manifest(prefix: Path, **changes: object) -> None:
    """Change keys of PREFIX.json, and its own hash with them."""
    path = Path(f"{prefix}.json")
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(content | {OWN_HASH: own_hash(content, OWN_HASH)}))
