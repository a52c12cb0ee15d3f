"""Planted faults of ranks that share a sequence, as real bugs would be. Called in every rank before the run starts."""

import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch


def chunks_swapped() -> None:
    """Each rank reads the tokens of its counterpart's chunks; attention and rotary angles are of its own."""
    from pretrain.data import batch

    part_of = batch.part_of
    batch.part_of = lambda whole, rank, ranks, *, dim: part_of(whole, ranks - 1 - rank, ranks, dim=dim)


def keys_in_the_order_of_ranks() -> None:
    """Gathered keys and values stay as they came: those of rank 0, then those of rank 1."""
    from pretrain.model import context_parallel

    context_parallel.in_order = lambda of_ranks: of_ranks.flatten(0, 1)


def keys_end_one_short() -> None:
    """Chunks but the first one of all meet the keys up to one before their last query's, and each query those before its own."""
    _attention(
        lambda query, key, value, starts: (query, key[:-1], value[:-1], starts) if len(key) > len(query) else None
    )


def documents_of_a_part_begin_one_late() -> None:
    """In rows that are cut off every document but the first one begins at its second token."""
    from pretrain.model import context_parallel

    starts_until = context_parallel.starts_until

    def broken(document_starts: torch.Tensor, *, length: int, end: int) -> torch.Tensor:
        found = starts_until(document_starts, length=length, end=end)
        return torch.where(found % end == 0, found, found + 1)

    context_parallel.starts_until = broken


def key_gradients_not_reduced() -> None:
    """Of the gradients of keys each rank keeps its own slice, instead of the sum over ranks."""
    from pretrain.model.context_parallel import _Exchange

    sound = _Exchange.sum

    def broken(self: Any, of_ranks: torch.Tensor) -> torch.Tensor:
        own = torch.zeros_like(of_ranks)  # [c, 2, s/c, b, g, d]
        own[self.rank, 0], own[:, 1] = of_ranks[self.rank, 0], of_ranks[:, 1]
        return sound(self, own)

    _Exchange.sum = broken  # type: ignore[method-assign]


def value_gradients_of_one_chunk_left_out() -> None:
    """What the last rank's first chunk contributes to the gradients of values is lost."""
    last = int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1
    _attention(
        lambda query, key, value, starts: (
            (query, key, value.detach(), starts) if last and len(key) == 2 * len(query) else None
        )
    )


def loss_counted_by_every_context_rank() -> None:
    """Each rank of a sequence counts the losses of whole rows, and the tokens of its own part."""
    from megatron.core import parallel_state

    from pretrain.train import step

    masked_loss = step.masked_loss

    def broken(*args: Any) -> Any:
        total, tokens, report = masked_loss(*args)
        ranks = parallel_state.get_context_parallel_world_size()
        return total * ranks, tokens, report * report.new_tensor([ranks, 1, ranks])

    step.masked_loss = broken


def angles_of_other_chunks() -> None:
    """Every rank turns queries and keys by the angles of the first rank's positions."""
    from pretrain.model import angles

    part_of = angles.part_of
    angles.part_of = lambda whole, _rank, ranks, *, dim: part_of(whole, 0, ranks, dim=dim)


def tokens_not_summed_over_context_ranks() -> None:
    """Gradients are divided by the tokens of one rank's part of each sequence."""
    from megatron.core import parallel_state

    from pretrain.model import gradients

    names = {name: getattr(parallel_state, name) for name in dir(parallel_state) if name.startswith("get_")}
    replicas = {"get_data_parallel_group": lambda **_: parallel_state.get_data_parallel_group()}
    gradients.parallel_state = SimpleNamespace(**names | replicas)  # type: ignore[attr-defined]


def window_measured_from_the_chunk() -> None:
    """A query's window counts from its place in its chunk: it is longer by what lies before the chunk."""
    from pretrain.model.layer_spec import CausalSelfAttention

    forward = CausalSelfAttention.forward

    def broken(self: Any, query: Any, key: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        window = self.window
        try:
            self.window = window and window + len(key) - len(query)
            return forward(self, query, key, *args, **kwargs)
        finally:
            self.window = window

    CausalSelfAttention.forward = broken  # type: ignore[method-assign]


def context_ranks_read_samples_of_their_own() -> None:
    """The last rank of each sequence reads the sample after the one that it shares."""
    from pretrain.data.read import TrainData

    if int(os.environ["RANK"]) != int(os.environ["WORLD_SIZE"]) - 1:
        return
    places = TrainData.places
    TrainData.places = lambda self, numbers: places(self, numbers + 1)  # type: ignore[method-assign]


def gradients_not_summed_over_context_ranks() -> None:
    """Each rank of a sequence updates its weights from the gradients of its own part."""
    from pretrain.model import gpt

    build = gpt.DistributedDataParallel

    class Broken(build):  # type: ignore[misc, valid-type]
        def finish_grad_sync(self, *_: Any, **__: Any) -> None: ...

        def start_grad_sync(self, *_: Any, **__: Any) -> None: ...

    gpt.DistributedDataParallel = Broken  # type: ignore[misc]


def masters_of_context_ranks_counted() -> None:
    """In a stability report ranks of a sequence that all keep the whole model each count it."""
    from pretrain.optim import parameter_figures

    count = parameter_figures.num_counted
    parameter_figures.num_counted = lambda placement, master, world: count(placement, master, replace(world, cp_rank=0))


def _attention(change: Any) -> None:
    """Change the arguments of attention of a chunk, where ``change`` gives others."""
    from pretrain.model.layer_spec import CausalSelfAttention

    forward = CausalSelfAttention.forward

    def broken(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        return forward(self, *(change(*args) or args), **kwargs)

    CausalSelfAttention.forward = broken  # type: ignore[method-assign]


def context_ranks_hash_too() -> None:
    """Each rank of a sequence hashes the tokens of its replica."""
    from pretrain.data import reader

    reader.hashes_data = lambda world: world.is_pipeline_first and world.tp_rank == 0


def all_read_the_next_sample() -> None:
    """Every rank reads the sample after the one that is its turn."""
    from pretrain.data.read import TrainData

    places = TrainData.places
    TrainData.places = lambda self, numbers: places(self, numbers + 1)  # type: ignore[method-assign]
