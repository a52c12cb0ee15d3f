"""A layout as a file: the keys of ``parallel`` and ``train`` that make it, to be laid over a config as ``@layout.yaml``."""

from pathlib import Path
from typing import Any

import yaml

from fanal.files import write_whole
from fanal.shown import on_one_line
from pretrain.plan.estimate import GIB, StepEstimate
from pretrain.plan.search import layout_name

PARALLEL = (
    "tensor_model_parallel_size", "pipeline_model_parallel_size", "virtual_pipeline_model_parallel_size", "pipeline_layers",
    "num_layers_in_first_pipeline_stage", "num_layers_in_last_pipeline_stage", "context_parallel_size", "data_parallel_size",
    "sequence_parallel", "use_distributed_optimizer", "overlap_grad_reduce", "overlap_param_gather",
)  # fmt: skip
TRAIN = ("micro_batch_size", "recompute", "recompute_num_layers", "recompute_modules", "offload_activations")


def layout_tree(estimate: StepEstimate) -> dict[str, dict[str, Any]]:
    """Return the keys of a layout."""
    run = estimate.run
    return {
        "parallel": {name: getattr(run.parallel, name) for name in PARALLEL},
        "train": {name: getattr(run.train, name) for name in TRAIN},
    }


def write_layout(path: Path, estimate: StepEstimate, machine: str) -> None:
    """Write a layout, whole or not at all, with what was planned for it in comments."""
    said = (
        f"# {layout_name(estimate.run, estimate.num_gpus)}, on {estimate.num_gpus:,} GPUs ({on_one_line(machine)}), as planned: "
        f"{estimate.peak_bytes / GIB:.1f} GiB, {estimate.step_s:.3f} s a step, "
        f"{estimate.tokens_per_second_per_gpu:,.0f} tokens/s/GPU.\n"
        f"# Laid over a config by: fanal train CONFIG @{on_one_line(path.name)}\n"
    )
    write_whole(path, said + yaml.safe_dump(layout_tree(estimate), sort_keys=False))
