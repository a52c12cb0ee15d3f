"""Keys of ``parallel``: the layout over ranks."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """The layout of the model and the batch over ranks."""

    tensor_model_parallel_size: int = 1
    """Ranks that share each weight matrix. It divides the query heads and the feed-forward; key/value groups it divides, or is a
    multiple of, and then neighbours hold copies of a group's heads. The vocabulary need not divide."""
    pipeline_model_parallel_size: int = 1
    """Ranks that share the layers."""
    virtual_pipeline_model_parallel_size: int = 1
    """Model chunks per pipeline rank; above 1 the schedule is interleaved 1F1B."""
    pipeline_layers: list[int] | None = None
    """Layers of each stage, in the order of the model: virtual stage 0 of every pipeline rank, then virtual stage 1, and so on. The
    first one has the embedding too and the last one the output layer: with fewer layers they weigh as much as the others. null
    gives every stage as many, but for the two keys that follow."""
    num_layers_in_first_pipeline_stage: int | None = None
    """Layers of the first pipeline rank, in all of its virtual stages; those that this key and the next one leave divide evenly
    among the other ranks."""
    num_layers_in_last_pipeline_stage: int | None = None
    """Layers of the last pipeline rank, in all of its virtual stages."""
    context_parallel_size: int = 1
    """Ranks that share each sequence: each holds two chunks of it and gathers the keys and values of all."""
    data_parallel_size: int | None = None
    """Replicas; null means what the ranks given allow (one, when the local ranks are started for you)."""
    sequence_parallel: bool = False
    """Split norms and residuals along the sequence among tensor-parallel ranks."""
    use_distributed_optimizer: bool = True
    """Split optimizer state and fp32 master weights among data-parallel and context-parallel ranks."""
    overlap_grad_reduce: bool = False
    """Reduce gradients while the backward pass still runs."""
    overlap_param_gather: bool = False
    """Gather updated parameters while the next forward pass runs; needs the distributed optimizer and overlap_grad_reduce."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """Device of the tensors: CUDA communicates through NCCL, the CPU through gloo; auto takes CUDA where there is a GPU."""
    timeout_s: int = 3600
    """Seconds a collective may take before the run gives up with exit code 70; behind train.watchdog, whose limits are shorter
    and which shows where every rank is."""
