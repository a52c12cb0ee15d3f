"""The gradients of a whole batch, made ready behind its last micro batch."""

from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, finalize_model_grads

from pretrain.model.copies import sum_copied_gradients


def finalize_gradients(model: list[DistributedDataParallel], num_tokens: torch.Tensor, **options: Any) -> None:
    """Sum gradients over replicas and over the copies of shared weights and rows, and divide them by the tokens of the whole batch.

    As megatron-core's finalize_model_grads, which asks the device on the host whether there is a token, once for each model chunk.
    Collective over all ranks.
    Args: num_tokens: int [1], what this replica counted on the last stage, zero on others; options as of megatron's.
    """
    finalize_model_grads(list(model), None, **options)
    sum_copied_gradients(parameter for chunk in model for parameter in chunk.parameters())
    if parallel_state.get_pipeline_model_parallel_world_size() > 1:
        last = parallel_state.get_pipeline_model_parallel_last_rank()
        pipeline: Any = parallel_state.get_pipeline_model_parallel_group()
        dist.broadcast(num_tokens, src=last, group=pipeline)
    replicas: Any = parallel_state.get_data_parallel_group(with_context_parallel=True)
    if replicas.size() > 1:
        dist.all_reduce(num_tokens, group=replicas)
    for chunk in model:
        chunk.scale_gradients(1.0 / num_tokens.clamp(min=1))  # type: ignore[arg-type]


def send_nothing_to_oneself(chunk: DistributedDataParallel) -> None:
    """Leave out the reductions and gathers of a replica that is alone: they copy whole buffers on to themselves."""
    groups: list[Any] = chunk.bucket_groups
    for group in groups:
        group.start_grad_sync = group.finish_grad_sync = group.start_param_sync = _nothing


def _nothing(*_: Any, **__: Any) -> None: ...
