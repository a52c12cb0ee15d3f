"""Which documents of a shard are meant: by number, by id, or by what its columns say of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tokenizer.shards.document_lists import read_ids, read_numbers
from tokenizer.shards.manifest import ShardError
from tokenizer.shards.shard import Shard

ID = "id"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What names documents; a document is selected that any of it names."""

    lists: Sequence[Path] = ()
    """Files of document numbers (document_lists.py)."""
    ids: Sequence[Path] = ()
    """Files of ids, one a line, looked up in the column `id`."""
    values: Mapping[str, Sequence[str]] | None = None
    """Values of columns: `{"host": ["example.com"]}`."""

    def as_options(self) -> tuple[str, ...]:
        """Return the selection as the command's options."""
        values = [f"--{name} {value}" for name, wanted in (self.values or {}).items() for value in wanted]
        return (*(f"--documents {path}" for path in self.lists), *(f"--ids {path}" for path in self.ids), *values)


@dataclass(frozen=True, kw_only=True)
class Selected:
    """The documents of a shard that a selection names."""

    leaves: np.ndarray
    """Whether each is: bool [documents]."""
    ids: tuple[str | None, ...] | None
    """Ids of those that are, where the shard has the column; else None."""
    missing_ids: tuple[str, ...]
    """Ids that the selection names and that no document has."""


def select(shard: Shard, selection: Selection) -> Selected:
    """Return the documents that are named.

    Raises: ShardError for a list or a column that does not fit the shard, and where nothing is selected.
    """
    leaves = np.zeros(shard.num_documents, dtype=bool)
    for path in selection.lists:
        leaves[read_numbers(path, shard)] = True
    ids = list(dict.fromkeys(one for path in selection.ids for one in read_ids(path)))
    wanted = {name: list(values) for name, values in (selection.values or {}).items() if values}
    if ids:
        wanted[ID] = ids
    found_ids = _select_by_columns(shard, wanted, leaves)
    if not leaves.any():
        what = ", ".join(selection.as_options()) or "nothing"
        raise ShardError(
            f"no document of {shard.prefix} is selected by {what}; --documents LIST selects by number, and "
            f"`fanal tokenizer verify {shard.prefix}` says how many there are"
        )
    return Selected(
        leaves=leaves,
        ids=_ids_of(shard, leaves),
        missing_ids=tuple(one for one in ids if one not in found_ids),
    )


def _select_by_columns(shard: Shard, wanted: Mapping[str, list[str]], leaves: np.ndarray) -> set[str]:
    """Mark the documents that have one of the wanted values in a column; returns the ids that were found."""
    if not wanted:
        return set()
    from tokenizer.shards.document_columns import open_columns  # with pyarrow, which takes its time

    columns = open_columns(shard.prefix, shard.manifest)
    for name in wanted:
        option = "--ids" if name == ID else f"--{name}"
        if columns is None:
            raise ShardError(
                f"{option} needs the columns of {shard.prefix}, and it has none; --documents LIST selects by number, or encode the "
                "documents again: `fanal tokenizer encode` keeps what it finds of each"
            )
        if name not in columns.names:
            raise ShardError(
                f"{option} needs the column {name!r} of {shard.prefix}, which has {', '.join(columns.names)}; --documents LIST "
                "selects by number"
            )
    assert columns is not None
    import pyarrow
    import pyarrow.compute

    found_ids: set[str] = set()
    begin = 0
    value_sets = {name: pyarrow.array(values, pyarrow.string()) for name, values in wanted.items()}
    for batch in columns.batches(list(wanted)):
        for name, values in value_sets.items():
            column = batch.column(batch.schema.get_field_index(name))
            is_wanted = pyarrow.compute.is_in(column, value_set=values)  # type: ignore[attr-defined]
            leaves[begin : begin + len(batch)] |= np.asarray(is_wanted)
            if name == ID:
                found_ids.update(column.filter(is_wanted).to_pylist())
        begin += len(batch)
    return found_ids


def _ids_of(shard: Shard, leaves: np.ndarray) -> tuple[str | None, ...] | None:
    if ID not in shard.manifest.documents_columns:
        return None
    from tokenizer.shards.document_columns import open_columns

    columns = open_columns(shard.prefix, shard.manifest)
    assert columns is not None
    found: list[str | None] = []
    begin = 0
    import pyarrow

    for batch in columns.batches([ID]):
        found += batch.column(0).filter(pyarrow.array(leaves[begin : begin + len(batch)])).to_pylist()
        begin += len(batch)
    return tuple(found)
