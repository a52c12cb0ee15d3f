"""Process groups without processes, and the names that people give them."""

import datetime

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch.testing._internal.distributed.fake_pg import FakeStore


def meet_nobody(device: torch.device, *, rank: int, num_ranks: int) -> None:
    """Open the process group of one rank of ``num_ranks``, of which no other is there."""
    dist.init_process_group(
        backend=",".join(f"{kind}:fake" for kind in sorted({"cpu", device.type})),
        store=FakeStore(),
        rank=rank,
        world_size=num_ranks,
        timeout=datetime.timedelta(seconds=60),
    )


def group_names() -> dict[str, str]:
    """Return what people call each group of the layout, by its name in torch; the first name counts where two are one group."""
    world = dist.group.WORLD
    assert world is not None, "the layout is open"
    copies = "dp x cp" if parallel_state.get_context_parallel_world_size() > 1 else "dp"
    groups = (
        ("tp", parallel_state.get_tensor_model_parallel_group(check_initialized=False)),
        ("pp", parallel_state.get_pipeline_model_parallel_group(check_initialized=False)),
        ("cp", parallel_state.get_context_parallel_group(check_initialized=False)),
        ("dp", parallel_state.get_data_parallel_group()),
        (copies, parallel_state.get_data_parallel_group(with_context_parallel=True)),
        ("tp x pp", parallel_state.get_model_parallel_group(check_initialized=False)),
        ("embedding", parallel_state.get_embedding_group(check_initialized=False)),
        ("world", world),
        ("world", parallel_state.get_intra_distributed_optimizer_instance_group(check_initialized=False)),
        (f"tp x {copies}", parallel_state.get_tensor_and_data_parallel_group(with_context_parallel=True)),
    )
    named: dict[str, str] = {}
    for name, group in groups:
        if isinstance(group, dist.ProcessGroup):
            named.setdefault(group.group_name, name)
    return named
