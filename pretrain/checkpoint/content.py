"""What a checkpoint holds, as megatron's sharded state dict: the same for saving and for loading."""

from typing import Any

from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer

from pretrain.model.gpt import unwrap


def sharded_content(
    model: list[DistributedDataParallel], optimizer: MegatronOptimizer, *, is_loading: bool
) -> dict[str, Any]:
    """Model chunks and optimizer state in the form that does not depend on the layout ("fully reshardable").

    Collective when saving: the optimizer gathers its parts from the replicas.
    """
    metadata = {
        "distrib_optim_sharding_type": "fully_reshardable",
        "distrib_optim_fully_reshardable_mem_efficient": False,
        "dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True),
        "chained_optim_avoid_prefix": True,
    }
    for chunk in model:
        if not is_loading and chunk.ddp_config.overlap_param_gather:
            # The last update is still on its way: without this, weights of the step before would be written.
            chunk.start_param_sync(force_sync=True)
    chunks = unwrap(model)
    names = ["model"] if len(chunks) == 1 else [f"model{index}" for index in range(len(chunks))]
    content: dict[str, Any] = {
        name: chunk.sharded_state_dict(metadata=metadata) for name, chunk in zip(names, chunks, strict=True)
    }
    weights = content if len(chunks) > 1 else content["model"]
    content["optimizer"] = optimizer.sharded_state_dict(dict(weights), is_loading=is_loading, metadata=metadata)
    return content
