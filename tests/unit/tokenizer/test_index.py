"""The index of a shard, by itself."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanal.errors import PassingError
from tests.runs.disks import UNREADABLE
from tokenizer.shards.index import document_batches, read_document_indices, read_lengths, read_pointers


@given(lengths=st.lists(st.integers(1, 50), max_size=40), num_tokens=st.integers(1, 120))
def test_batches_take_every_document_once_and_no_more_tokens_than_asked_but_for_one_long_document(
    lengths: list[int], num_tokens: int
) -> None:
    document = token = 0
    for begin, end, held in document_batches(np.array(lengths, np.int32), num_tokens):
        size = sum(lengths[begin:end])
        assert (begin, held.start, held.stop) == (document, token, token + size)
        assert end > begin and (size <= num_tokens or end == begin + 1)
        assert end == len(lengths) or size + lengths[end] > num_tokens, "a batch is filled"
        document, token = end, held.stop
    assert (document, token) == (len(lengths), sum(lengths))


@pytest.mark.parametrize("read", [read_lengths, read_pointers, read_document_indices])
def test_a_table_on_a_disk_that_fails_is_no_shorter_table(
    tmp_path: Path, read: Callable[[Path, int], np.ndarray]
) -> None:
    path = tmp_path / "a.idx"
    path.symlink_to(UNREADABLE)
    with pytest.raises(PassingError, match=f"{path} cannot be read: Input/output error; try again"):
        read(tmp_path / "a", 10)
