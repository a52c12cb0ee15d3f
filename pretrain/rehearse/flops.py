"""Floating-point operations of matrix products and of attention, by the shapes that they are given.

Attention counts the whole matrix of a row, all its queries times all its keys, whatever a mask, a document or a window hides of it,
so that backends compare.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
PACKED = {
    "aten::_flash_attention_forward": (0, 6, 2),
    "aten::_flash_attention_backward": (1, 9, 5),
    "torch_attn::_varlen_attn": (0, 6, 2),
    "torch_attn::_varlen_attn_backward": (1, 9, 5),
}
"""Kernels of attention whose heads come last: the places of the queries and of how many keys a row has among their arguments, and
their products, of which the backward computes the scores again. torch's own formulas are for [b, n, s, d], and take each document
for a whole row."""
OURS = {"attention.forward": 2, "attention_backward.for_queries": 3, "attention_backward.for_keys": 4}
"""Products of our Triton kernels of attention; the backward is two of them, and each computes the scores again."""
FACTORS = {aten.mm: 2, aten.bmm: 2, aten.addmm: 3, aten.baddbmm: 3}
"""Tensors among the arguments of a product; some forms of it have a type behind them, which torch's formulas do not know."""


def flops_of(func: Any, args: Any, kwargs: Any, output: Any) -> int:
    """Return what an operation of torch computes; 0 if it is no product."""
    packet = func._overloadpacket
    if func._schema.name in PACKED:
        query, longest, products = PACKED[func._schema.name]
        return _attention(products, args[query], args[longest])
    if packet is torch.ops.mkldnn._linear_pointwise:  # of a CPU (fanal.kernels.products)
        return 2 * args[0].numel() * len(args[1])
    if packet in FACTORS:
        return flop_registry[packet](*args[: FACTORS[packet]], out_val=output)
    return flop_registry[packet](*args, **kwargs, out_val=output) if packet in flop_registry else 0


def flops_of_kernel(kernel: str, arguments: Sequence[Any]) -> int:
    """Return what a Triton kernel of ours computes in products. Args: kernel, arguments: as of kernels.triton.launch.start."""
    products = OURS.get(kernel, 0)
    return _attention(products, arguments[0], len(arguments[1])) if products else 0  # its keys are [s, b, g, d]


def _attention(products: int, query: Tensor, keys: int) -> int:
    """Return the operations of products of all queries and as many keys as a row has. Args: query, its dimensions in any order."""
    return products * 2 * query.numel() * keys
