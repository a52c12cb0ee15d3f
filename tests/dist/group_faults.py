"""Faults of copied key and value heads, and of rows past the end of a vocabulary. Called in every rank before the run starts."""

from dataclasses import replace
from typing import Any

import torch


def key_value_gradients_not_summed() -> None:
    """Each rank updates its copy of a key and a value head from the gradient of its own queries."""
    from pretrain.model import gradients

    gradients.sum_copied_gradients = lambda parameters: None


def copies_counted_for_each_holder_in_the_norm() -> None:
    """Every holder of a key and a value head counts them in the gradient norm."""
    from pretrain.optim import states

    states.num_counted_elements = lambda parameter: parameter.numel()


def copies_counted_for_each_holder_in_the_report() -> None:
    """Every holder of a key and a value head counts them in the stability report."""
    from pretrain.model.placement import Placement

    count = Placement.num_answered_for.fget

    def broken(self: Any) -> int:
        is_shared = self.name.endswith("linear_qkv.weight")
        return self.parameter.numel() if is_shared else count(self)  # type: ignore[misc]

    Placement.num_answered_for = property(broken)  # type: ignore[method-assign,assignment]


def key_heads_of_the_wrong_group_on_the_last_rank() -> None:
    """The last tensor-parallel rank, and so one of a group's holders, begins with key and value heads of the first group."""
    from pretrain.model import initialize

    sound = initialize.blocks_of_rank

    def broken(spec: Any, *, num_ranks: int, rank: int) -> Any:
        blocks = sound(spec, num_ranks=num_ranks, rank=rank)
        if not spec.copied_parts or rank != num_ranks - 1:
            return blocks
        of_first = sound(spec, num_ranks=num_ranks, rank=0)
        return tuple(first if block.num_holders > 1 else block for block, first in zip(blocks, of_first, strict=True))

    initialize.blocks_of_rank = broken


def squares_of_key_copies_added_for_each_holder() -> None:
    """The norm over all key heads takes every copy for a head of its own."""
    from pretrain.model.norms import KeysNorm

    forward = KeysNorm.forward

    def broken(self: Any, heads: torch.Tensor) -> torch.Tensor:
        # As many squares, over as many elements as one head of each group has.
        return forward(self, heads) / self.num_holders**0.5

    KeysNorm.forward = broken  # type: ignore[method-assign]


def updates_clipped_by_copies_too() -> None:
    """StableAdamW's mean over a tensor has every copy in its sum."""
    from pretrain.optim import shards

    sound = shards.num_counted_here
    shards.num_counted_here = lambda inner, parameter, main, start: (
        main.numel() if getattr(parameter, "copied_end", None) else sound(inner, parameter, main, start)
    )


def keys_of_each_rank_orthogonalized_for_themselves() -> None:
    """Muon takes the key head of the first group for all of them."""
    from pretrain.optim.whole_matrices import WholeMatrices

    sound = WholeMatrices._whole

    def broken(self: Any, own: Any, got: torch.Tensor) -> torch.Tensor:
        whole = sound(self, own, got)
        tiles = whole.chunk(self._tp // own.matrix.num_holders, dim=own.matrix.split_dim or 0)
        return torch.cat([tiles[0]] * len(tiles)) if own.matrix.num_holders > 1 else whole

    WholeMatrices._whole = broken  # type: ignore[method-assign]


def rows_past_the_end_take_part() -> None:
    """The softmax has a column for each row that a rank holds."""
    from pretrain.model import gpt

    build = gpt.Decoder.__init__

    def broken(self: Any, **kwargs: Any) -> None:
        build(self, **kwargs)
        self.real_vocab_columns = kwargs["vocab_size"] // self.config.tensor_model_parallel_size

    gpt.Decoder.__init__ = broken  # type: ignore[method-assign]


def vocabulary_cut_as_if_it_divided() -> None:
    """Initial rows are drawn as if every rank had one row less: each rank but the first begins too early."""
    from pretrain.model import initialize

    sound = initialize.blocks_of_rank

    def broken(spec: Any, *, num_ranks: int, rank: int) -> Any:
        blocks = sound(spec, num_ranks=num_ranks, rank=rank)
        if not spec.has_token_rows:
            return blocks
        return tuple(replace(block, rows=range(block.rows.start - rank, block.rows.stop - rank)) for block in blocks)

    initialize.blocks_of_rank = broken
