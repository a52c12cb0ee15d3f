"""Packed tokens: the rows of a micro batch one after the other, as the attention over documents takes them."""

from torch import Tensor


def pack(tensor: Tensor) -> Tensor:
    """Pack [s, b, n, d] -> [b * s, n, d], row after row; a view for one row, else a copy."""
    return tensor.transpose(0, 1).flatten(0, 1)


def unpack(packed: Tensor, like: Tensor) -> Tensor:
    """Unpack [b * s, n, d] -> [s, b, n, d], a view; s and b are those of ``like``."""
    return packed.unflatten(0, (like.shape[1], like.shape[0])).transpose(0, 1)
