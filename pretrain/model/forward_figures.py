"""What a stability report says of a forward pass, seen by hooks that are there for one step.

Shapes: s sequence, b micro batch, h hidden, n query heads, g query groups, d head size, v padded vocabulary; /t split by tensor
parallelism.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from fanal.kernels import products
from fanal.kernels.attention_logits import largest_logit
from pretrain.model.figures import EMBEDDING_ROW, Figures, Sum, row_of_layer
from pretrain.model.gpt import Decoder, unwrap
from pretrain.model.layer_spec import CausalSelfAttention


@contextlib.contextmanager
def watched_forward(model: list[DistributedDataParallel], figures: Figures) -> Iterator[None]:
    """Add up what the forward passes of these model chunks compute, those of a recomputation left out, until the block ends.

    No collective, no host wait, and nothing that training computes is another. Ranks that hold the same numbers all count them, and
    the number of their elements with them: the mean of all is the same.
    """
    with contextlib.ExitStack() as stack:
        for chunk in unwrap(model):
            for handle in _Watch(chunk, figures).hooks():
                stack.callback(handle.remove)
        yield


class _Watch:
    """The hooks of one model chunk. They count while the chunk's own forward runs: a recomputation is a part of the backward."""

    def __init__(self, chunk: Decoder, figures: Figures) -> None:
        self._chunk, self._figures = chunk, figures
        self._is_forward = False

    def hooks(self) -> Iterator[RemovableHandle]:
        """Put the hooks in place, and yield them."""
        chunk: Any = self._chunk
        yield chunk.register_forward_pre_hook(self._begin)
        if chunk.pre_process:
            # Behind the hook of the model that scales an embedding.
            yield chunk.embedding.register_forward_hook(partial(self._see_residual, EMBEDDING_ROW))
        for layer in chunk.decoder.layers:
            row, attention = row_of_layer(layer), layer.self_attention
            for module in attention.core_attention.modules():
                if isinstance(module, CausalSelfAttention):
                    yield module.register_forward_pre_hook(partial(self._see_queries, row))
            yield attention.register_forward_hook(partial(self._see_part, "attention", row))
            yield layer.mlp.register_forward_hook(partial(self._see_part, "feed_forward", row))
            yield layer.register_forward_hook(partial(self._see_residual, row))
        if chunk.post_process:
            yield chunk.output_layer.register_forward_hook(self._see_logits)
        yield chunk.register_forward_hook(self._end)

    def _begin(self, *_: Any) -> None:
        self._is_forward = True

    @torch.no_grad()
    def _end(self, _module: Any, _inputs: Any, output: Any) -> None:
        self._is_forward = False
        if self._chunk.post_process:
            denominators = output[1]  # [b, s], of Decoder.compute_language_model_loss
            self._figures.add("log_denominator", self._figures.output_row, denominators.double().sum())
            self._figures.add("tokens", self._figures.output_row, denominators.numel())

    @torch.no_grad()
    def _see_residual(self, row: int, _module: Any, _inputs: Any, output: Any) -> None:
        """See the residual stream, [s, b, h] or [s/t, b, h], where a layer or the embedding leaves it."""
        if not self._is_forward:
            return
        stream = _tensor_of(output)
        self._figures.add("residual", row, _sum_of_squares(stream))
        self._figures.add("elements", row, stream.numel())
        self._figures.reach("residual", row, torch.linalg.vector_norm(stream, ord=float("inf")))

    @torch.no_grad()
    def _see_part(self, what: Sum, row: int, _module: Any, _inputs: Any, output: Any) -> None:
        """See what attention or feed-forward add to the residual stream."""
        if self._is_forward:
            self._figures.add(what, row, _sum_of_squares(_tensor_of(output)))

    @torch.no_grad()
    def _see_queries(self, row: int, attention: CausalSelfAttention, inputs: tuple[Any, ...]) -> None:
        """See queries [q, b, n/t, d] and keys [s, b, g/t, d] as the softmax has them, normed and turned."""
        if not self._is_forward:
            return
        query, key, _value, document_starts = inputs
        window = attention.window if attention.window is not None and attention.window < key.shape[0] else None
        largest = largest_logit(query, key, attention.softmax_scale, document_starts, window, attention.soft_cap)
        self._figures.reach("attention_logit", row, largest)

    @torch.no_grad()
    def _see_logits(self, _module: Any, _inputs: Any, output: Any) -> None:
        """See the logits, [s, b, v/t], of the columns that stand for a token; with a loss in chunks, made once more in chunks."""
        chunk, columns = self._chunk, self._chunk.real_vocab_columns
        if not columns:
            return
        logits = _tensor_of(output)
        if chunk.loss_chunk_tokens is None:
            largest = logits[..., :columns].amax()
        else:
            weight = chunk.output_weight()[:columns]
            some = logits.flatten(0, -2).split(chunk.loss_chunk_tokens)  # of what is given to the layer, [s * b, h]
            largest = torch.stack([products.linear(rows, weight).amax() for rows in some]).amax()
        cap = chunk.final_logit_softcap
        largest = largest.float()
        capped = largest if cap is None else cap * torch.tanh(largest / cap)
        self._figures.reach("output_logit", self._figures.output_row, capped)


def _tensor_of(output: Any) -> Tensor:
    """Return the first of a module's outputs."""
    return output[0] if isinstance(output, tuple) else output


def _sum_of_squares(activations: Tensor) -> Tensor:
    """Return the sum of squares, fp64; each token's in fp32, without a copy of all."""
    return torch.linalg.vector_norm(activations, dim=-1, dtype=torch.float32).double().square().sum()
