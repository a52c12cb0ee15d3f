"""Which files a rank's boxes go to, and what of the bytes of a file goes where in memory."""

import itertools

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fanal.run_folder import MAX_FILES, MIN_FILE_BYTES
from pretrain.checkpoint.content import LocalBox, files_of
from pretrain.checkpoint.disk.boxes import Box
from pretrain.checkpoint.loading.fill import _take_into


def box_of(count: int) -> LocalBox:
    return LocalBox(tensor="a", shape=(count,), box=Box(offset=(0,), size=(count,)), states={})


@given(st.lists(st.integers(1, 1 << 24), max_size=60))
def test_every_part_is_in_one_file_and_there_are_few_files(counts: list[int]) -> None:
    boxes = [box_of(count) for count in counts]
    files = files_of(boxes, element_bytes=12)
    assert [local for file in files for local in file] == boxes
    assert 1 <= len(files) <= 2 * MAX_FILES and all(files[1:])
    limit = max(MIN_FILE_BYTES, sum(counts) * 12 // MAX_FILES)
    assert all(len(file) == 1 or sum(local.box.num_elements for local in file) * 12 <= limit for file in files)


@given(st.data())
def test_blocks_of_any_length_fill_the_memory_that_their_bytes_belong_to(data: st.DataObject) -> None:
    """Also memory for which the file holds no byte, bytes that belong nowhere, and pieces that came in another order."""
    content = np.random.default_rng(1).integers(0, 255, 200, np.uint8)
    cuts = sorted(data.draw(st.sets(st.integers(0, 200), min_size=2, max_size=12)))
    pieces = [(low, torch.full((high - low,), 255, dtype=torch.uint8)) for low, high in itertools.pairwise(cuts)]
    wanted = data.draw(st.permutations(pieces))[: data.draw(st.integers(1, len(pieces)))]
    take, place = _take_into(wanted), 0
    while place < len(content):
        length = data.draw(st.integers(1, 200))
        take(place, memoryview(content[place : place + length]))
        place += length
    for start, memory in pieces:
        is_wanted = any(memory is other for _, other in wanted)
        expected = content[start : start + len(memory)] if is_wanted else np.full(len(memory), 255)
        assert np.array_equal(memory.numpy(), expected)
