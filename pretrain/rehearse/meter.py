"""Counts what the operations of a step do: memory, collectives, waits of the host, copies, products."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FakeWork
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pretrain.rehearse.flops import flops_of, flops_of_kernel
from pretrain.rehearse.ledger import Ledger
from pretrain.rehearse.places import place
from pretrain.rehearse.record import TO_GPU, TO_HOST, Copy, Step, Traffic, Wait

aten = torch.ops.aten
READ, COPY, SYNCHRONIZE = "a number is read", "a copy is waited for", "the whole device is waited for"
COPIED_BY_GLOO = ("reduce_scatter", "allgather")
"""Beginnings of the collectives that gloo, which CPU ranks use, does in a copy of the whole tensor; NCCL needs none."""


class Counts:
    """Counters of one step."""

    def __init__(self) -> None:
        self.calls = Counter[tuple[str, int, str]]()  # (group, ranks, operation)
        self.moved = Counter[tuple[str, int, str]]()  # bytes
        self.waits = Counter[tuple[str, str]]()  # (reason, place)
        self.copies = Counter[tuple[str, str]]()  # (way, place)
        self.copied = Counter[tuple[str, str]]()  # bytes
        self.flops = Counter[str]({"products": 0})

    def tables(self) -> tuple[Counter[Any], ...]:
        """Return all counters, always in the same order."""
        return self.calls, self.moved, self.waits, self.copies, self.copied, self.flops

    def step(self) -> Step:
        """Return the counters as a record."""
        return Step(
            traffic=tuple(
                Traffic(
                    group=group,
                    ranks=ranks,
                    operation=operation,
                    calls=calls,
                    num_bytes=self.moved[group, ranks, operation],
                )
                for (group, ranks, operation), calls in sorted(self.calls.items())
            ),
            waits=tuple(
                Wait(reason=reason, place=where, count=count) for (reason, where), count in sorted(self.waits.items())
            ),
            copies=tuple(
                Copy(way=way, place=where, count=count, num_bytes=self.copied[way, where])
                for (way, where), count in sorted(self.copies.items())
            ),
            flops=self.flops["products"],
        )


class Meter(TorchDispatchMode):
    """Sees every operation that reaches torch's dispatcher, those of autograd included, and answers those that need values.

    Collectives are done at once and move nothing. A number that is read from the device is 1.
    """

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self.ledger, self.counts = Ledger(device_type), Counts()
        self.group_names: Mapping[str, str] = {}
        """What to call process groups, by their name in torch."""
        self._device_type = device_type

    def begin(self) -> None:
        """Count from nothing, and look for a new peak."""
        self.ledger.begin()
        self.counts = Counts()

    def waited(self, reason: str) -> None:
        """Count a wait of the host."""
        self.counts.waits[reason, place().where] += 1

    def started(self, kernel: str, _grid: tuple[int, ...], *arguments: Any, **_: Any) -> None:
        """Count what a Triton kernel of ours would compute, as kernels.triton.launch.start is called. It writes into memory that is
        there already."""
        self.counts.flops["products"] += flops_of_kernel(kernel, arguments)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default:
            if args[0].device.type == self._device_type:
                self.waited(READ)
            return 1.0 if args[0].dtype.is_floating_point else 1
        if func.namespace == "c10d":
            return self._communicate(func, args)
        output = self._run(func, args, kwargs)
        self._see_copy(func, args, kwargs, output)
        tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]
        if tensors:
            at = place()
            for tensor in tensors:
                self.ledger.see(tensor, (at.kind, at.where, func._schema.name.removeprefix("aten::")))
        self.counts.flops["products"] += flops_of(func, args, kwargs, output)
        return output

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operation on fake tensors. A host tensor of known values is moved by hand: torch would move the values."""
        target = torch.device(kwargs.get("device") or "cpu")
        if func is aten._to_copy.default and args[0].device.type == "cpu" != target.type:
            return torch.empty(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype, device=target)
        return func(*args, **kwargs)

    def _see_copy(self, func: Any, args: Any, kwargs: Any, output: Any) -> None:
        """Count a copy between host and device. Unless it is told not to wait, torch lets the host wait for its end, either way."""
        if func is aten._to_copy.default:
            source, target, may_go_on = args[0].device.type, output.device.type, kwargs.get("non_blocking", False)
        elif func is aten.copy_.default:
            source, target = args[1].device.type, args[0].device.type
            may_go_on = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
        else:
            return
        if source == target:
            return
        key = TO_GPU if target == self._device_type else TO_HOST, place().where
        self.counts.copies[key] += 1
        self.counts.copied[key] += output.numel() * output.element_size()
        if not may_go_on:
            self.waited(COPY)

    def _communicate(self, func: Any, args: Any) -> Any:
        group = _group_of(func, args)
        for leaf in tree_leaves(args):
            if isinstance(leaf, torch.Tensor) and leaf.device.type != self._device_type:
                raise RuntimeError(
                    f"{func._schema.name} in group {group.group_name} was given a tensor on {leaf.device}"
                )
        name = self.group_names.get(group.group_name, group.group_desc or group.group_name)
        key = name, group.size(), func._schema.name.partition("::")[2].strip("_").removesuffix("_base")
        self.counts.calls[key] += 1
        # Of an all-to-all what this rank gives: added over the ranks it is what is moved, and its two sides need not be equal.
        given = args[1:2] if key[2].startswith("alltoall") else args
        num_bytes = max(map(_num_bytes, given), default=0)
        self.counts.moved[key] += num_bytes
        if self._device_type == "cpu" and key[2].startswith(COPIED_BY_GLOO):
            self.ledger.see_for_a_moment(num_bytes, ("copies that gloo makes", place().where, key[2]))
        work = FakeWork().boxed()
        return work if len(func._schema.returns) == 1 else (args[0], work)


def _group_of(func: Any, args: Any) -> dist.ProcessGroup:
    names = [argument.name for argument in func._schema.arguments]
    return dist.ProcessGroup.unbox(args[names.index("process_group")])


def _num_bytes(argument: Any) -> int:
    return sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(argument) if isinstance(leaf, torch.Tensor))
