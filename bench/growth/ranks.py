"""What grows with the ranks of a run, on one rank among them: the others are made up (torch's own fake process group)."""

from pathlib import Path

import torch.distributed as dist
from megatron.core import parallel_state
from torch.testing._internal.distributed.fake_pg import FakeStore

from bench.growth.case import Act, Growth
from pretrain.config.load import load_run
from pretrain.config.rules import check_ranks
from pretrain.inspect.layouts import layouts_for
from pretrain.train.least_memory import least_bytes

ROOT = Path(__file__).parents[2]
SIZES = (8, 64, 512, 4_096)
TENSOR, PIPELINE = 4, 2


def open_groups(size: int, folder: Path) -> Act:
    """Megatron's process groups of a world of that many ranks, as ``open_world`` asks for them."""

    def act() -> dict[str, int]:
        dist.init_process_group("fake", store=FakeStore(), rank=size - 1, world_size=size)
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=TENSOR, pipeline_model_parallel_size=PIPELINE, create_gloo_process_groups=False
        )
        groups = len(dist.distributed_c10d._world.pg_map)
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()
        return {"groups of this rank": groups}

    return act


def check_layout(size: int, folder: Path) -> Act:
    """The rules of a layout and its batch, the layouts that a proof would try, and the memory that the run needs."""
    batch = 4 * max(SIZES)
    run = load_run(
        ROOT / "configs/lucie-7b/pretrain.yaml",
        ["parallel.data_parallel_size=null", f"train.global_batch_size={batch}", "train.batch_ramp=null"],
    )

    def act() -> dict[str, int]:
        check_ranks(run, max(size, TENSOR * TENSOR))
        least_bytes(run, num_ranks=size)
        _, others = layouts_for(run, num_ranks=max(size, TENSOR * TENSOR))
        return {"layouts": len(others)}

    return act


CASES = (
    Growth(name="open process groups", grows_with="ranks", sizes=SIZES, prepare=open_groups),
    Growth(name="check a layout", grows_with="ranks", sizes=SIZES, prepare=check_layout),
)
