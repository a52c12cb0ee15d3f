"""Signs that the ids a run was trained on are not those of its ``data.tokenizer``, whatever its config says."""

import os
from pathlib import Path

from fanal.run_folder import DATA, IMPORTED_FILES
from pretrain.checkpoint.disk.origin import chain, read_origin
from pretrain.data.position import read_position
from tokenizer.vocabulary.pieces import difference, pieces_in, pieces_of


def sign_of_other_ids(checkpoint: Path, tokenizer: Path) -> str | None:
    """Return why text in this tokenizer may mean something else to the model of a checkpoint; None if nothing says so.

    Raises: DamagedCheckpointError.
    """
    if os.path.lexists(checkpoint / DATA) and read_position(checkpoint / DATA).has_other_ids:
        return "its shards were adopted with --ids-of-another-tokenizer"
    ours = pieces_of(tokenizer)
    for origin in chain(read_origin(checkpoint)):
        for theirs in pieces_in(Path(origin.checkpoint) / IMPORTED_FILES).values():
            if ours is not None and (differs := difference(theirs, ours)) is not None:
                return f"its weights began with those of {origin.checkpoint}, whose tokenizer is another one: {differs}"
    return None
