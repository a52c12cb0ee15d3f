"""Find a text, or a regular expression, in a token shard."""

from collections.abc import Iterator
from pathlib import Path

from fanal.errors import UserError
from tokenizer.search.anchor import Placements
from tokenizer.search.decode import Decoder, ShardText
from tokenizer.search.hits import Hit, Places
from tokenizer.search.scan import find_places
from tokenizer.shards.shard import Shard, open_shard
from tokenizer.vocabulary.folder import Tokenizer


class Search:
    """A text to be found in any number of shards of one tokenizer.

    Args: text: found as the tokenizer prepares it (Unicode form), since documents were.
    Raises: UserError if it is empty.
    """

    def __init__(self, tokenizer: Tokenizer, text: str) -> None:
        self._tokenizer, self._decoder = tokenizer, Decoder(tokenizer.token_bytes())
        self._wanted = tokenizer.prepare(text).encode()
        if not self._wanted:
            raise UserError(f"the text {text!r} is empty to {tokenizer.directory}; a text of one character works")
        self._placements = Placements(self._decoder.pieces, self._wanted)

    def find(self, shard: Shard) -> Iterator[Hit]:
        """Yield every occurrence in a shard, also overlapping ones, in its order. Raises: UserError, DamagedShardError."""
        text = ShardText(shard, self._tokenizer, self._decoder)
        places = Places(text)
        for place in find_places(text, self._wanted, self._placements, [(0, shard.num_tokens)]):
            hit = places.hit(place, num_bytes=len(self._wanted))
            if hit is not None:
                yield hit


def find_text(
    prefix: str | Path, tokenizer: Tokenizer, *, text: str | None = None, regex: str | None = None
) -> Iterator[Hit]:
    """Yield every occurrence of a text, or of a regular expression, in the documents of a shard, in its order.

    Raises: UserError if both or none are given, or one is not a text to be found; ShardError, DamagedShardError.
    """
    assert text is not None and regex is None
    return Search(tokenizer, text).find(open_shard(prefix))
