"""Texts between ranks, as bytes in tensors. torch's own object collectives send pickles, which run code where they are read.

A JSON text carries what is more than one text.
"""

import torch
import torch.distributed as dist

from pretrain.parallel.world import World

NO_TEXT = -1
"""Size that stands for None."""


def share_text(text: str | None, world: World) -> str | None:
    """Return rank 0's text on every rank. Collective over all ranks."""
    content = _bytes_of(text or "", world)
    size = torch.tensor([NO_TEXT if text is None else len(content)], device=world.device)
    dist.broadcast(size, src=0)
    length = int(size.item())
    if length <= 0:
        return None if length == NO_TEXT else ""
    if world.rank != 0:
        content = torch.empty(length, dtype=torch.uint8, device=world.device)
    dist.broadcast(content, src=0)
    return _text_of(content)


def gather_texts(text: str, world: World) -> list[str] | None:
    """Return every rank's text on rank 0, in the order of ranks; None on the others. Collective over all ranks.

    Memory on rank 0: the longest text times the number of ranks.
    """
    content = _bytes_of(text, world)
    sizes = torch.zeros(world.size, dtype=torch.int64, device=world.device)
    sizes[world.rank] = len(content)
    dist.all_reduce(sizes)
    lengths = sizes.tolist()
    longest = max(lengths)
    if longest == 0:
        return [""] * world.size if world.rank == 0 else None
    padded = torch.zeros(longest, dtype=torch.uint8, device=world.device)
    padded[: len(content)] = content
    if world.rank != 0:
        dist.gather(padded, dst=0)
        return None
    rows = torch.empty((world.size, longest), dtype=torch.uint8, device=world.device)
    dist.gather(padded, list(rows.unbind()), dst=0)
    return [_text_of(row[:length]) for row, length in zip(rows, lengths, strict=True)]


def _bytes_of(text: str, world: World) -> torch.Tensor:
    # A name of a file may hold bytes that are no text; Python holds them as surrogates.
    content = bytearray(text.encode("utf-8", "surrogatepass"))
    empty = torch.empty(0, dtype=torch.uint8, device=world.device)
    return torch.frombuffer(content, dtype=torch.uint8).to(world.device) if content else empty


def _text_of(content: torch.Tensor) -> str:
    return content.cpu().numpy().tobytes().decode("utf-8", "surrogatepass")
