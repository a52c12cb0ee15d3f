"""Boxes are the elements they stand for, each once, in order."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pretrain.checkpoint.disk.boxes import Box, boxes_of_range, cover_once, first_element, intersection

SHAPES = st.one_of(st.tuples(st.integers(1, 40)), st.tuples(st.integers(1, 12), st.integers(1, 12)))


def elements(box: Box, shape: tuple[int, ...]) -> list[int]:
    """The flat numbers of a box's elements in row-major order."""
    flat = np.arange(np.prod(shape)).reshape(shape)
    return flat[tuple(slice(a, a + n) for a, n in zip(box.offset, box.size, strict=True))].reshape(-1).tolist()


@st.composite
def ranges(draw: st.DrawFn) -> tuple[tuple[int, ...], int, int]:
    shape = draw(SHAPES)
    start = draw(st.integers(0, int(np.prod(shape))))
    return shape, start, draw(st.integers(start, int(np.prod(shape))))


@st.composite
def boxes(draw: st.DrawFn, shape: tuple[int, ...]) -> Box:
    offset = tuple(draw(st.integers(0, length - 1)) for length in shape)
    return Box(offset=offset, size=tuple(draw(st.integers(1, n - a)) for a, n in zip(offset, shape, strict=True)))


@given(ranges())
def test_the_boxes_of_a_range_are_its_elements_in_order(case: tuple[tuple[int, ...], int, int]) -> None:
    shape, start, end = case
    found = boxes_of_range(shape, start, end)
    assert len(found) <= 3 and all(box.num_elements for box in found)
    assert [number for box in found for number in elements(box, shape)] == list(range(start, end))


@given(st.data())
def test_an_intersection_is_what_both_have(data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    left, right = data.draw(boxes(shape)), data.draw(boxes(shape))
    both = intersection(left, right)
    expected = sorted(set(elements(left, shape)) & set(elements(right, shape)))
    assert (elements(both, shape) if both else []) == expected
    assert both == intersection(right, left)


@given(SHAPES, st.data())
def test_a_tensor_cut_anywhere_is_covered_once(shape: tuple[int, ...], data: st.DataObject) -> None:
    total = int(np.prod(shape))
    cuts = sorted(data.draw(st.lists(st.integers(0, total), max_size=6)))
    found = [box for a, b in zip([0, *cuts], [*cuts, total], strict=True) for box in boxes_of_range(shape, a, b)]
    assert cover_once(shape, data.draw(st.permutations(found)))


@given(SHAPES, st.data())
def test_covering_once_is_what_counting_says(shape: tuple[int, ...], data: st.DataObject) -> None:
    some = data.draw(st.lists(boxes(shape), max_size=5))
    counts = sorted(number for box in some for number in elements(box, shape))
    assert cover_once(shape, some) == (counts == list(range(int(np.prod(shape)))))


def test_an_overlap_that_makes_up_for_a_gap_is_no_cover_and_neither_is_what_lies_outside() -> None:
    half = Box(offset=(0, 0), size=(2, 4))
    assert not cover_once((4, 4), [half, half]), "as many elements as the tensor has"
    assert not cover_once((4, 4), [half, half.moved((4, 0))])
    assert cover_once((4, 4), [half, half.moved((2, 0))])


@given(st.data())
def test_where_a_box_begins_in_a_larger_one_and_whether_it_is_one_piece(data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from([(7,), (4, 5), (1, 6), (6, 1)]))

    def box_in(outer: Box) -> Box:
        starts = [data.draw(st.integers(0, n - 1)) for n in outer.size]
        sizes = [data.draw(st.integers(1, n - a)) for n, a in zip(outer.size, starts, strict=True)]
        return Box(offset=tuple(starts), size=tuple(sizes)).moved(outer.offset)

    outer = box_in(Box(offset=(0,) * len(shape), size=shape))
    inner = box_in(outer)
    numbers = np.arange(outer.num_elements).reshape(outer.size)
    place = tuple(slice(a - b, a - b + n) for a, b, n in zip(inner.offset, outer.offset, inner.size, strict=True))
    found = numbers[place].reshape(-1)
    is_one_piece = found[-1] - found[0] + 1 == len(found)
    assert first_element(inner, outer) == (found[0] if is_one_piece else None)
