"""Boxes: the block of a whole tensor that one entry of a checkpoint holds. Pure arithmetic.

A rank owns a flat range of its part of a tensor, cut wherever the distributed optimizer cuts it. As boxes of the whole tensor
the range means the same in every layout, and what one layout wrote another reads by intersecting boxes.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Box:
    """A block of a tensor: the elements offset <= index < offset + size, in every dimension."""

    offset: Shape
    size: Shape

    @property
    def num_elements(self) -> int:
        """The number of elements."""
        return math.prod(self.size)

    def moved(self, by: Sequence[int]) -> "Box":
        """Return the same box in a tensor that this one is a part of, ``by`` its place there."""
        return Box(offset=tuple(a + b for a, b in zip(self.offset, by, strict=True)), size=self.size)


def boxes_of_range(shape: Shape, start: int, end: int) -> list[Box]:
    """Return the elements ``start`` to ``end`` of a tensor in row-major order, as at most three boxes, in that order.

    Args: shape: of one or two dimensions.
    """
    assert len(shape) in (1, 2), f"parameters have one or two dimensions, not {len(shape)}"
    assert 0 <= start <= end <= math.prod(shape), f"range {start} to {end} is not inside {shape}"
    if len(shape) == 1:
        return [Box(offset=(start,), size=(end - start,))] if end > start else []
    columns, found = shape[1], []
    while start < end:
        row, column = divmod(start, columns)
        rows = (end - start) // columns if column == 0 else 0
        if rows:
            found.append(Box(offset=(row, 0), size=(rows, columns)))
            start += rows * columns
        else:
            part = min(columns - column, end - start)
            found.append(Box(offset=(row, column), size=(1, part)))
            start += part
    return found


def intersection(left: Box, right: Box) -> Box | None:
    """Return the box that two boxes of one tensor share; None if they share nothing."""
    low = tuple(max(a, b) for a, b in zip(left.offset, right.offset, strict=True))
    high = tuple(min(a + m, b + n) for a, m, b, n in zip(left.offset, left.size, right.offset, right.size, strict=True))
    if any(a >= b for a, b in zip(low, high, strict=True)):
        return None
    return Box(offset=low, size=tuple(b - a for a, b in zip(low, high, strict=True)))


def first_element(inner: Box, outer: Box) -> int | None:
    """Return where a box begins in the row-major order of one around it; None if it does not lie there without a gap."""
    first = inner.offset[0] - outer.offset[0]
    if len(inner.size) == 1:
        return first
    if inner.size[0] > 1 and inner.size[1] < outer.size[1]:
        return None
    return first * outer.size[1] + inner.offset[1] - outer.offset[1]


def cover_once(shape: Shape, boxes: Sequence[Box]) -> bool:
    """Return whether every element of a tensor is in exactly one of these boxes, and they reach no further. Linear in their number.

    Corners of the boxes and of the tensor that coincide cancel out in pairs. If none is left, every element is in an odd number
    of boxes; if the boxes have as many elements as the tensor, that number is one.
    """
    corners: set[Shape] = set()
    for box in (Box(offset=(0,) * len(shape), size=shape), *boxes):
        if box.num_elements:
            for corner in itertools.product(*((a, a + n) for a, n in zip(box.offset, box.size, strict=True))):
                corners ^= {corner}
    return not corners and sum(box.num_elements for box in boxes) == math.prod(shape)
