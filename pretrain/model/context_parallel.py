"""Attention of a sequence that several ranks share: each has two chunks of it, and gathers the keys and values of all.

Every query meets the keys it would meet on one rank, in one softmax, by the same kernel: nothing is merged afterwards. Keys and
values go in one message for a piece of the groups, whose backward is a reduce-scatter. Pieces are on their way while others are
computed: in the forward all are sent off at once, and attention over the first begins when it has come; in the backward a piece's
gradients leave when they are ready. The projection comes before all of it, queries, keys and values being rows of one matrix.

With grouped queries the keys and values of a row are small. The rank with the last chunk needs all of them, and a ring would
send it as many; the average rank needs three quarters of what it is sent (bench/results/context.md).

Shapes: s sequence, c ranks that share it, b micro batch, n query heads, g query groups, d head size; /t split by
    tensor parallelism.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor
from torch.autograd.function import once_differentiable

from pretrain.parallel.sequence_chunks import by_rank, chunks_of, in_order

MAX_PIECES = 2
"""Messages of one attention, where there are as many groups: with p of them about 1/p of the communication is waited for."""


class ContextParallelAttention(torch.nn.Module):
    """Attention over chunks of a sequence: [s/c, b, n/t, d] and [s/c, b, g/t, d] twice -> [s/c, b, n/t * d].

    Args: attention, a module that is called with queries of the last positions, keys and values of all positions up to them,
        and the starts of documents among these.
    """

    def __init__(self, attention: torch.nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, query: Tensor, key: Tensor, value: Tensor, document_starts: Tensor | None, **_: Any) -> Tensor:
        """Args: document_starts as in MicroBatch, of whole rows. Collective over the ranks of the sequence."""
        exchange = _Exchange()
        groups = key.shape[2]
        sizes = [len(part) for part in torch.arange(groups).tensor_split(min(groups, MAX_PIECES))]
        local = _Begin.apply(exchange, sizes, key, value)
        queries = query.unflatten(2, (groups, -1)).split(sizes, dim=2)
        outputs = []
        for number, (part, own) in enumerate(zip(queries, local, strict=True)):
            keys, values = _Arrive.apply(exchange, number, own)
            outputs.append(self._attend(part.flatten(2, 3), keys, values, document_starts, exchange))
        return torch.cat(outputs, dim=2) if len(outputs) > 1 else outputs[0]

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, document_starts: Tensor | None, exchange: "_Exchange"
    ) -> Tensor:
        """Attend from this rank's two chunks to whole rows. [s/c, b, n, d], [s, b, g, d] twice -> [s/c, b, n * d]"""
        length, rows = len(key), len(query) // 2
        outputs = []
        for part, number in zip(query.split(rows), chunks_of(exchange.rank, exchange.size), strict=True):
            end = (number + 1) * rows
            starts = None if document_starts is None else starts_until(document_starts, length=length, end=end)
            outputs.append(self.attention(part, key[:end], value[:end], starts))
        return torch.cat(outputs)


def starts_until(document_starts: Tensor, *, length: int, end: int) -> Tensor:
    """Return the starts of documents in rows that are cut off; documents behind the cut are empty. No host sync.

    Args: document_starts as in MicroBatch, of rows of ``length``; end, positions of a row that are left.
    """
    rows = document_starts // length
    return rows * end + (document_starts - rows * length).clamp(max=end)


class _Exchange:
    """The messages of one attention, forward and backward: what has been sent off and is to be waited for."""

    def __init__(self) -> None:
        self.group: Any = parallel_state.get_context_parallel_group()
        self.size, self.rank = self.group.size(), self.group.rank()
        self._gathered: dict[int, tuple[Any, Tensor]] = {}
        self._summed: list[tuple[Any, Tensor]] = []

    def gather(self, locals_: Sequence[Tensor]) -> None:
        """Send off what the other ranks need of each piece, [2, s/c, b, g, d]."""
        for number, local in enumerate(locals_):
            everyone = local.new_empty((self.size, *local.shape))
            work = dist.all_gather_into_tensor(everyone.flatten(0, 1), local, group=self.group, async_op=True)
            self._gathered[number] = work, everyone

    def arrived(self, number: int) -> Tensor:
        """Wait for a piece. Returns: [c, 2, s/c, b, g, d]."""
        work, everyone = self._gathered.pop(number)
        work.wait()
        return everyone

    def sum(self, of_ranks: Tensor) -> Tensor:
        """Send off gradients to be summed, [c, ...], and return what this rank's part will be, once ``wait_for_sums`` has."""
        local = of_ranks.new_empty(of_ranks.shape[1:])
        self._summed.append(
            (dist.reduce_scatter_tensor(local, of_ranks.flatten(0, 1), group=self.group, async_op=True), of_ranks)
        )
        return local

    def wait_for_sums(self) -> None:
        """Wait for all gradients that were sent off."""
        for work, _kept_until_sent in self._summed:
            work.wait()
        self._summed.clear()


class _Begin(torch.autograd.Function):
    """Cut keys and values into pieces by their groups, and send all of them off; in the backward, wait for all gradients."""

    @staticmethod
    def forward(ctx: Any, exchange: _Exchange, sizes: list[int], key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        ctx.exchange = exchange
        parts = zip(key.split(sizes, dim=2), value.split(sizes, dim=2), strict=True)
        local = tuple(torch.stack(part) for part in parts)  # [2, s/c, b, g, d] each
        exchange.gather(local)
        return local

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.exchange.wait_for_sums()
        for_key, for_value = torch.cat(gradients, dim=3).unbind()
        return None, None, for_key, for_value


class _Arrive(torch.autograd.Function):
    """Wait for a piece of all ranks; in the backward, send its gradients off. [2, s/c, b, g, d] -> [s, b, g, d] twice."""

    @staticmethod
    def forward(ctx: Any, exchange: _Exchange, number: int, local: Tensor) -> tuple[Tensor, Tensor]:
        ctx.exchange = exchange
        everyone = exchange.arrived(number)
        return in_order(everyone[:, 0]), in_order(everyone[:, 1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, for_key: Tensor, for_value: Tensor) -> tuple[None, None, Tensor]:
        exchange: _Exchange = ctx.exchange
        return None, None, exchange.sum(by_rank((for_key, for_value), exchange.size))
