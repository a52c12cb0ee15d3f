"""Inputs of recomputed layers in the host's memory, from the end of a layer's forward until shortly before its backward.

The copy to the host begins beside the layer's forward and has the whole of it; the copy back begins when the backward comes to the
layer behind it, which is computed again and then backward meanwhile. The host waits for neither: the device's streams wait for each
other. Exact: bytes are moved, and nothing is computed. Not yet run on a GPU.

Shapes: s sequence, b micro batch, h hidden; /ct split by context and, with sequence parallelism, tensor parallelism.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from megatron.core.tensor_parallel.random import checkpoint
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from pretrain.parallel.side_stream import InOrder, SideStream, side_stream

Layer = Callable[..., tuple[Tensor, Any]]


class HostBuffers:
    """Pinned memory of the host, taken once and then used again and again, and the stream of the copies to it and from it.

    A buffer is free as soon as the copy out of it is queued: whatever is copied into it later is behind that in the same stream.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream: SideStream | InOrder = side_stream(device)
        self._free: dict[tuple[torch.Size, torch.dtype], list[Tensor]] = defaultdict(list)

    def take(self, like: Tensor) -> Tensor:
        """Return a buffer for a tensor of the device. torch takes pinned memory in powers of two."""
        free = self._free[like.shape, like.dtype]
        pinned = self.device.type == "cuda"
        return free.pop() if free else torch.empty(like.shape, dtype=like.dtype, device="cpu", pin_memory=pinned)

    def give_back(self, buffer: Tensor) -> None:
        """Take a buffer back that all queued copies are done with when the next one begins."""
        self._free[buffer.shape, buffer.dtype].append(buffer)


class Kept:
    """The input of one layer for one micro batch, [s/ct, b, h]: on the device, then on the host, then on the device again."""

    def __init__(self, buffers: HostBuffers, hidden: Tensor, before: "Kept | None") -> None:
        """Begin the copy to the host. Args: before, the kept input whose backward comes next after this one's."""
        self.before = before
        self._buffers = buffers
        self._hidden: Tensor | None = hidden
        self._on_host: Tensor | None = buffers.take(hidden)
        self._on_device: Tensor | None = None
        host, device = self._on_host, hidden.detach()
        self._mark = buffers.stream.start(lambda: host.copy_(device, non_blocking=True))

    def hooks(self) -> saved_tensors_hooks:
        """Return a context in which autograd saves this object in place of the input."""
        return saved_tensors_hooks(self._pack, _unpack)

    def fetch(self) -> None:
        """Begin the copy back to the device, unless it has begun."""
        host = self._on_host
        if host is None:
            return
        made = self._on_device = torch.empty_like(host, device=self._buffers.device, pin_memory=False)
        self._mark = self._buffers.stream.start(lambda: made.copy_(host, non_blocking=True))
        self._on_host = None
        self._buffers.give_back(host)

    def arrived(self) -> Tensor:
        """Return the input on the device, for once, and begin to fetch the one that the backward needs next."""
        self.fetch()
        mark, made = self._mark, self._on_device
        assert made is not None, "the input of a layer is used by one backward"
        if self.before is not None:
            self.before.fetch()
        self.before = self._on_device = None
        self._buffers.stream.wait(mark)
        return made

    def _pack(self, saved: Tensor) -> "Tensor | Kept":
        """Let go of the input at the end of the layer's forward; the main stream uses its memory again once the copy is done."""
        if saved is not self._hidden:
            return saved
        self._buffers.stream.wait(self._mark)
        self._hidden = None
        return self


def _unpack(saved: Tensor | Kept) -> Tensor:
    return saved.arrived() if isinstance(saved, Kept) else saved


class OffloadedLayers:
    """The layers of a model chunk in training, as megatron's block runs them with full recomputation, inputs on the host."""

    def __init__(self, layers: Iterable[Layer], *, recomputed: int, offloaded: range, buffers: HostBuffers) -> None:
        """Args: recomputed, how many, the first ones; offloaded, which of these (derive.offloaded_layers)."""
        self.layers = [*layers]
        self.recomputed, self.offloaded, self.buffers = recomputed, offloaded, buffers

    def __call__(
        self, *, hidden_states: Tensor, attention_mask: Tensor | None, rotary_pos_emb: Tensor, **_: Any
    ) -> Tensor:
        """Args and result: hidden states [s/ct, b, h]; the others as of layer_spec.py."""
        hidden, kept = hidden_states, None
        for index, layer in enumerate(self.layers):
            run = _runs(layer)
            if index >= self.recomputed:
                hidden = run(hidden, attention_mask, rotary_pos_emb)
            elif index in self.offloaded and torch.is_grad_enabled():
                kept = Kept(self.buffers, hidden, kept)
                with kept.hooks():
                    hidden = checkpoint(run, False, hidden, attention_mask, rotary_pos_emb)
            else:
                hidden = checkpoint(run, False, hidden, attention_mask, rotary_pos_emb)
        if kept is not None:
            _fetch_with_gradient_of(hidden, kept)
        return hidden


def _runs(layer: Layer) -> Callable[[Tensor, Tensor | None, Tensor], Tensor]:
    def run(hidden: Tensor, attention_mask: Tensor | None, rotary_pos_emb: Tensor) -> Tensor:
        return layer(hidden_states=hidden, attention_mask=attention_mask, rotary_pos_emb=rotary_pos_emb)[0]

    return run


def _fetch_with_gradient_of(output: Tensor, last: Kept) -> None:
    """Begin to fetch the first input that the backward of a chunk needs when the backward comes to the chunk."""
    output.register_hook(lambda _gradient: last.fetch())
