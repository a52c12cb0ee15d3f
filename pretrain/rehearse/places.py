"""The place in the code that asks for something, and what a user calls what it makes there."""

import sys
from functools import cache
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch

ROOT = str(Path(__file__).parents[2])
OURS = ("pretrain/", "fanal/", "kernels/", "tokenizer/")
"""Beside megatron-core, what counts as a place; torch's own lines say nothing to a user."""
NOT_A_PLACE = ("pretrain/rehearse/", "pretrain/parallel/device.py")

GRADIENTS_OF_ACTIVATIONS = "gradients of activations"
OTHER = "other"
ACTIVATIONS = "activations: "
KINDS = {
    "fanal/kernels/rms_norm.py": ACTIVATIONS + "norms",
    "fanal/kernels/layer_norm.py": ACTIVATIONS + "norms",
    "fanal/kernels/norm_in_fp32.py": ACTIVATIONS + "norms",
    "pretrain/model/norms.py": ACTIVATIONS + "norms",
    "fanal/kernels/attention.py": ACTIVATIONS + "attention",
    "pretrain/model/angles.py": ACTIVATIONS + "attention",
    "pretrain/model/layer_spec.py CausalSelfAttention": ACTIVATIONS + "attention",
    "pretrain/model/layer_spec.py LayerAttention": ACTIVATIONS + "attention",
    "pretrain/model/context_parallel.py ContextParallelAttention": ACTIVATIONS + "attention",
    "pretrain/model/context_parallel.py _Begin": ACTIVATIONS + "gathered keys and values",
    "pretrain/model/context_parallel.py _Arrive": ACTIVATIONS + "gathered keys and values",
    "megatron/core/models/common/embeddings/rope_utils.py": ACTIVATIONS + "attention",
    "megatron/core/transformer/attention.py": ACTIVATIONS + "attention",
    "fanal/kernels/activations.py": ACTIVATIONS + "feed-forward",
    "pretrain/model/activation.py": ACTIVATIONS + "feed-forward",
    "pretrain/model/layer_spec.py FeedForward": ACTIVATIONS + "feed-forward",
    "megatron/core/transformer/mlp.py": ACTIVATIONS + "feed-forward",
    "megatron/core/transformer/transformer_layer.py": ACTIVATIONS + "residuals",
    "megatron/core/transformer/transformer_block.py": ACTIVATIONS + "residuals",
    "pretrain/model/offload.py": ACTIVATIONS + "residuals",
    "pretrain/model/layer_spec.py": ACTIVATIONS + "residuals",
    "pretrain/model/embedding.py": ACTIVATIONS + "embedding",
    "megatron/core/models/common/embeddings/language_model_embedding.py": ACTIVATIONS + "embedding",
    "fanal/kernels/cross_entropy.py": "logits and loss",
    "pretrain/model/loss.py": "logits and loss",
    "pretrain/model/gpt.py": "logits and loss",
    "megatron/core/models/gpt/gpt_model.py": "logits and loss",
    "megatron/core/pipeline_parallel/p2p_communication.py": "messages between stages",
    "pretrain/data/batch.py": "micro batch",
    "megatron/core/distributed/": "weights' gradients on their way",
    "pretrain/model/gradients.py": "weights' gradients on their way",
    "megatron/core/optimizer/": "update of the weights",
    "pretrain/optim/": "update of the weights",
}
"""What is made inside of a file, of a class or function of it, or of a folder, unless a deeper call says it better. A file of the
model that is not here counts for the one that calls it."""
SHARED_BUFFERS = ("megatron/core/utils.py", "get_tensor")
"""Where megatron-core keeps the memory into which it gathers a sequence."""


class Place(NamedTuple):
    """A line of the product or of megatron-core."""

    where: str
    """``file:line function``."""
    kind: str


def place() -> Place:
    """Return the place that the running operation was asked for, by the stack of this thread."""
    where, frame = "", sys._getframe(1)
    at: FrameType | None = frame
    while at is not None:
        file = _short(at.f_code.co_filename)
        if file is not None:
            function = at.f_code.co_name
            where = where or f"{file}:{at.f_lineno} {function}"
            if (file, function) == SHARED_BUFFERS:
                return Place(where, "buffers of sequence parallelism")
            if function == "backward":
                return Place(where, GRADIENTS_OF_ACTIVATIONS)
            kind = _kind(file, at.f_code.co_qualname.partition(".")[0])
            if kind is not None:
                return Place(where, kind)
        at = at.f_back
    node = torch._C._current_autograd_node()
    if node is not None:
        return Place(where or f"autograd {node.name()}", GRADIENTS_OF_ACTIVATIONS)
    return Place(where or "torch", OTHER)


@cache
def _short(file: str) -> str | None:
    """Return the name of a file from its package on; None if it is no place."""
    start = file.rfind("/megatron/core/")
    if start >= 0:
        return file[start + 1 :]
    name = file.removeprefix(ROOT + "/")
    return name if name.startswith(OURS) and not name.startswith(NOT_A_PLACE) else None


@cache
def _kind(file: str, owner: str) -> str | None:
    if f"{file} {owner}" in KINDS or file in KINDS:
        return KINDS.get(f"{file} {owner}") or KINDS[file]
    return next((kind for key, kind in KINDS.items() if key.endswith("/") and file.startswith(key)), None)
