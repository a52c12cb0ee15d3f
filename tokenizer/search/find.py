"""Find a text, or a regular expression, in token shards."""

from collections.abc import Iterator
from pathlib import Path

from fanal.errors import UserError, user_path
from fanal.shown import shown
from tokenizer.search.anchor import Placements
from tokenizer.search.candidates import candidate_ranges
from tokenizer.search.decode import Decoder, ShardText
from tokenizer.search.hits import Hit, Place, Places
from tokenizer.search.index_file import SearchIndex, index_path, rebuild_command
from tokenizer.search.regex import Expression
from tokenizer.search.scan import Range, find_places, pieces_of
from tokenizer.shards.shard import Shard, open_shard
from tokenizer.vocabulary.folder import Tokenizer


class Search:
    """A text, or a regular expression, to be found in any number of shards of one tokenizer.

    Args: text: found as the tokenizer prepares it (Unicode form), since documents were; regex: of Python's ``re``, taken as it is.
    Raises: UserError if not one of both is given, or it is not one to be found.
    """

    def __init__(self, tokenizer: Tokenizer, *, text: str | None = None, regex: str | None = None) -> None:
        if (text is None) == (regex is None):
            raise UserError(
                "a search is for a text or for a regular expression, and for one of them; `--text 'a text'` works"
            )
        self._tokenizer, self._decoder = tokenizer, Decoder(tokenizer.token_bytes())
        self._expression = None if regex is None else Expression(regex)
        self._wanted = _prepared(tokenizer, text) if self._expression is None else self._expression.literal
        self._placements = None if self._wanted is None else Placements(self._decoder.pieces, self._wanted)

    def find(self, shard: Shard) -> Iterator[Hit]:
        """Yield every occurrence in a shard, in its order: of a text also those that overlap, of an expression what ``finditer``
        gives of each document but for empty matches.

        Raises: UserError, also of an index of another shard; DamagedShardError, DamagedIndexError.
        """
        text = ShardText(shard, self._tokenizer, self._decoder)
        places = Places(text)
        for place, num_bytes in self._places(text):
            hit = places.hit(place, num_bytes=num_bytes)
            if hit is not None:
                yield hit

    def _places(self, text: ShardText) -> Iterator[tuple[Place, int]]:
        if self._wanted is None or self._placements is None:
            documents = _documents(text, [(0, text.shard.num_tokens)])
        else:
            found = find_places(text, self._wanted, self._placements, self._ranges(text.shard, self._wanted))
            if self._expression is None:
                yield from ((place, len(self._wanted)) for place in found)
                return
            documents = _documents_of(found)
        assert self._expression is not None, "a text has places"
        for number, start, end in documents:
            yield from self._expression.places(text, number, start, end)

    def _ranges(self, shard: Shard, wanted: bytes) -> list[Range]:
        """Return the tokens among which a text may lie: all of them where there is no index."""
        if not has_index(shard):
            return [(0, shard.num_tokens)]
        command = rebuild_command(shard.prefix, self._tokenizer.directory)
        remedy = f"`{command}` makes a new one, and without one a search reads everything"
        return candidate_ranges(SearchIndex(shard.prefix, shard.manifest, remedy=remedy), wanted)


def has_index(shard: Shard) -> bool:
    """Return whether a shard has an index, whatever is in it."""
    path = index_path(shard.prefix)
    with user_path(path):
        return path.exists()


def _prepared(tokenizer: Tokenizer, text: str | None) -> bytes:
    try:
        prepared = tokenizer.prepare(text or "").encode()
    except UnicodeEncodeError:
        raise UserError(f"the text {shown(text)} is not UTF-8, and documents are; `--text 'a text'` works") from None
    if not prepared:
        raise UserError(
            f"the text {shown(text)} is empty to {tokenizer.directory}; one with a character, `--text 'a text'`, works"
        )
    return prepared


def _documents(text: ShardText, ranges: list[Range]) -> Iterator[tuple[int, int, int]]:
    """Yield (number, first token, one past the last) of every document that has a token in one of the ranges."""
    done = -1
    for start, end in pieces_of(ranges):
        first, edges = text.shard.document_edges(start, end - start)
        for number, (begin, finish) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True), first):
            if number > done:
                yield number, begin, finish
        done = first + len(edges) - 2


def _documents_of(places: Iterator[Place]) -> Iterator[tuple[int, int, int]]:
    """Yield the document of every place, once."""
    done = -1
    for place in places:
        if place.document > done:
            done = place.document
            yield done, place.document_start, place.document_end


def find_text(
    prefix: str | Path, tokenizer: Tokenizer, *, text: str | None = None, regex: str | None = None
) -> Iterator[Hit]:
    """Yield every occurrence of a text, or of a regular expression, in the documents of a shard: see ``Search``.

    For many shards of one tokenizer make one ``Search``, which prepares its tables once.
    Raises: as ``Search``; ShardError, DamagedShardError.
    """
    return Search(tokenizer, text=text, regex=regex).find(open_shard(prefix))
