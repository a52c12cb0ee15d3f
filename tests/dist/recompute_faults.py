"""Planted faults in what is computed again in the backward pass. Called in every rank before the run starts."""

from typing import Any

import torch


def recomputed_without_documents() -> None:
    """What is made again of attention sees a row as one document: the starts of documents, integers, are lost."""
    from pretrain.model import recompute

    make_again = recompute.Part.make_again

    def broken(self: Any, gradient: torch.Tensor) -> None:
        function = self.function
        self.function = lambda *inputs: function(*(one if _is_wide(one) else None for one in inputs))
        make_again(self, gradient)

    recompute.Part.make_again = broken  # type: ignore[method-assign]


def _is_wide(one: Any) -> bool:
    return one is not None and one.is_floating_point()


def outputs_not_restored() -> None:
    """What was forgotten is taken again as memory, and its numbers are not."""
    from pretrain.model import recompute

    make_again = recompute.Part.make_again

    def broken(self: Any, gradient: torch.Tensor) -> None:
        output = self.output
        make_again(self, gradient)
        output.data.zero_()

    recompute.Part.make_again = broken  # type: ignore[method-assign]


def whole_layers_recomputed_without_documents() -> None:
    """megatron's checkpoint of a whole layer, or of a feed-forward, loses the starts of documents when it computes again."""
    from megatron.core.tensor_parallel.random import CheckpointFunction

    backward = CheckpointFunction.backward

    def broken(ctx: Any, *gradients: Any) -> Any:
        run = ctx.run_function
        ctx.run_function = lambda hidden, _starts, *rest: run(hidden, None, *rest)
        return backward(ctx, *gradients)

    CheckpointFunction.backward = staticmethod(broken)  # type: ignore[method-assign,assignment]
