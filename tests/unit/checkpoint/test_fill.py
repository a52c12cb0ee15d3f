"""Which files a rank's boxes go to, and what of the bytes of a file goes where in memory."""

import itertools

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from pretrain.checkpoint.content import LocalBox, files_of
from pretrain.checkpoint.disk.boxes import Box, cover_once
from pretrain.checkpoint.loading.fill import _take_into


def box_of(number: int, size: tuple[int, ...]) -> LocalBox:
    """A box of its own tensor, in the middle of it, whose values say where they belong."""
    count = int(np.prod(size))
    states = {"param": torch.arange(count) + number * 1000, "exp_avg": -torch.arange(count) - number * 1000}
    shape, offset = tuple(length + 5 for length in size), (3,) * len(size)
    return LocalBox(tensor=f"tensor {number}", shape=shape, box=Box(offset=offset, size=size), states=states)


SIZES = st.one_of(st.tuples(st.integers(1, 30)), st.tuples(st.integers(1, 6), st.integers(1, 6)))


@given(st.lists(SIZES, max_size=8), st.integers(1, 5))
def test_boxes_go_to_exactly_as_many_files_as_asked_for_in_equal_parts(
    sizes: list[tuple[int, ...]], num_files: int
) -> None:
    boxes = [box_of(number, size) for number, size in enumerate(sizes)]
    files = files_of(boxes, num_files=num_files)
    lengths = [sum(local.box.num_elements for local in file) for file in files]
    assert len(files) == num_files and max(lengths) - min(lengths) <= 1
    parts = [local for file in files for local in file]
    for state in ("param", "exp_avg"):
        before, after = ([local.states[state] for local in found] for found in (boxes, parts))
        assert torch.equal(torch.cat([*before, torch.empty(0)]), torch.cat([*after, torch.empty(0)]))
    for whole in boxes:
        cut = [local for local in parts if local.tensor == whole.tensor]
        assert all(
            local.shape == whole.shape and local.states["param"].numel() == local.box.num_elements for local in cut
        )
        assert cover_once(whole.box.size, [local.box.moved([-start for start in whole.box.offset]) for local in cut])


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
