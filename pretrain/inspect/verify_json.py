"""``fanal verify FILE.json``: a file that holds a hash of itself, such as the ledger of a run, against that hash."""

import json
from pathlib import Path
from typing import Any

from fanal.console import Console
from fanal.errors import DamageError, UserError
from fanal.files import reading
from fanal.plain_files import read_plain
from fanal.reason import reason
from fanal.records import MAX_RECORD_BYTES, own_hash
from fanal.shown import on_one_line, shown
from pretrain.convert.ours.tokenizer_files import json_bytes
from pretrain.convert.theirs.certified import OWN_HASH as CERTIFICATE_HASH
from pretrain.ledger.ledger import LEDGER_HASH

OWN_HASHES = (CERTIFICATE_HASH, LEDGER_HASH)
"""Keys of the hash of everything else in a file, of the files that ``json_bytes`` writes."""


def verify_json(path: Path, console: Console, *, may_have_none: bool) -> list[str]:
    """Compare a JSON file with its own hash, and with the bytes that such content is written as. Returns: the problems.

    Args: may_have_none: whether a file without a hash passes, since a signature says more.
    Raises: UserError if there is none; DamageError if the file is not JSON.
    """
    with reading(path):
        text = read_plain(path, max_bytes=MAX_RECORD_BYTES)
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamageError(f"{path} is not JSON ({reason(error)}); get it again") from None
    key = next((key for key in OWN_HASHES if isinstance(content, dict) and key in content), None)
    if key is None and may_have_none:
        return []
    if key is None:
        raise UserError(
            f"{path} must have a hash of itself ({' or '.join(OWN_HASHES)}), and has none: nothing can be compared; "
            "--public-key FILE.pub checks its signature, if it was signed"
        )
    found = own_hash(content, key)
    if content[key] != found:
        return [
            f"{path} has content with sha256 {found}, expected {shown(content[key])} by its {key}: it changed; get it again"
        ]
    if json_bytes(content) != text:
        return [f"{path} has the content that was written, in other bytes: it was formatted anew; get it again"]
    console.print(on_one_line(f"{path}: every byte as written, by its {key}"), soft_wrap=True)
    return []
