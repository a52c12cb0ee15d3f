"""Parts of a layer whose output is let go of once the next product has it, and made again when the backward comes to that product.

megatron-core has the same as CheckpointWithoutOutput, which in version 0.16.1 needs Transformer Engine. What is made again is held
twice while one layer's backward runs, where the function's own backward needs its output, as a flash kernel of attention does.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.autograd.graph import get_gradient_edge

Function = Callable[..., Tensor]


def resize(storage: torch.UntypedStorage, num_bytes: int) -> None:
    """Give a storage's memory back, or take it again. Whoever counts memory puts something else in this one's place."""
    storage.resize_(num_bytes)


class Part:
    """One run of a function: its output, which may be forgotten, and how to make it again."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.output: Any = None
        self.context: Any = None
        self.leaves: tuple[Any, ...] = ()
        self.edge: Any = None

    def forget(self, used_by: Tensor) -> None:
        """Free the output's memory until the backward has the gradient of the tensor that the one product which takes it gave."""
        if not used_by.requires_grad:
            self.output = self.context = None
            return
        storage = self.output.untyped_storage()
        self.num_bytes = storage.nbytes()
        resize(storage, 0)
        used_by.register_hook(self.make_again)

    def make_again(self, _gradient: Tensor) -> None:
        """Run the function again and put what it gives where the output was, which others hold."""
        inputs = self.context.saved_tensors
        self.leaves = tuple(one if one is None else one.detach().requires_grad_(one.requires_grad) for one in inputs)
        with torch.enable_grad():
            made = self.function(*self.leaves)
        resize(self.output.untyped_storage(), self.num_bytes)
        # Through .data, whose writes autograd does not count: the output is what it was when it was saved.
        self.output.data.copy_(made.detach())
        self.edge = get_gradient_edge(made)  # all that the backward needs of it, so that its memory goes
        self.output = self.context = None


class _WithoutOutput(torch.autograd.Function):
    """Hold the inputs. Between forward and backward, Part.make_again has run the function with gradients."""

    @staticmethod
    def forward(ctx: FunctionCtx, part: Part, *inputs: Any) -> Tensor:
        ctx.save_for_backward(*inputs)
        ctx.part, part.context = part, ctx  # pyright: ignore[reportAttributeAccessIssue]
        return part.function(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        part = ctx.part
        torch.autograd.backward(part.edge, gradient)
        found = tuple(None if leaf is None else leaf.grad for leaf in part.leaves)
        part.leaves, part.edge = (), None
        return None, *found


def without_output(function: Function, *inputs: Any) -> tuple[Tensor, Callable[[Tensor], None]]:
    """Run a function that holds its inputs alone for the backward, and return its output with what forgets it.

    The output goes into one product, which may hold it as it is. What that product gives is handed to the second thing returned:
    the memory of the output is free then, and the function runs again as soon as the backward has the gradient of what was handed
    over. It costs the function a second time. Exact: the same operations on the same numbers. Not yet run on a GPU.

    Args: function: gives a tensor of its own, no view of an input; inputs: tensors, or None.
    """
    part = Part(function)
    output: Any = _WithoutOutput.apply(part, *inputs)
    part.output = output
    return output, part.forget
