"""The world of one process, opened and closed: rank, device, process groups."""

import contextlib
import datetime
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

from pretrain.config.derive import data_parallel_size
from pretrain.config.schema import ParallelConfig
from pretrain.parallel.device import keep_groups_apart, prepare_device, share_groups
from pretrain.parallel.device_type import resolve_device
from pretrain.parallel.environment import name_first_host, rank_and_size
from pretrain.parallel.plain_objects import read_plain_objects_alone
from pretrain.parallel.rendezvous import meet


@dataclass(frozen=True, kw_only=True)
class World:
    """This process's place in the rank grid. Ranks count from 0."""

    rank: int
    size: int
    device: torch.device
    tp_rank: int
    pp_rank: int
    dp_rank: int
    """Number of this rank's replica, each of which trains on samples of its own."""
    cp_rank: int = 0
    """Of the ranks that share each sequence, the number of this one."""
    tensor_model_parallel_size: int
    pipeline_model_parallel_size: int
    data_parallel_size: int
    context_parallel_size: int = 1

    @property
    def dp_cp_rank(self) -> int:
        """The number of this rank among those that hold the same weights, which sum their gradients: megatron's dp-cp group."""
        return self.dp_rank * self.context_parallel_size + self.cp_rank

    @property
    def dp_cp_size(self) -> int:
        """Ranks that hold the same weights: those of all replicas, and of each those that share its sequences."""
        return self.data_parallel_size * self.context_parallel_size

    @property
    def is_pipeline_first(self) -> bool:
        """Whether this rank holds the embedding."""
        return self.pp_rank == 0

    @property
    def is_pipeline_last(self) -> bool:
        """Whether this rank holds the output layer and sees the loss."""
        return self.pp_rank == self.pipeline_model_parallel_size - 1


@contextlib.contextmanager
def open_lone_world() -> Iterator[None]:
    """Open process groups of this process alone, on its CPU, so that megatron's layers can run in it. No port is opened.

    Raises: AssertionError if the process is in a world already.
    """
    assert not dist.is_initialized(), "a process is in one world at a time"
    prepare_device("cpu", 0)
    store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
    dist.init_process_group(backend="gloo", store=store, rank=0, world_size=1)
    try:
        share_groups()
        parallel_state.initialize_model_parallel(create_gloo_process_groups=False)
        model_parallel_cuda_manual_seed(0)  # megatron forks it where it makes weights; nothing is drawn
        yield
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


@contextlib.contextmanager
def open_world(config: ParallelConfig, *, seed: int) -> Iterator[World]:
    """Join the process groups of the layout (collective), and leave them at the end.

    On an exception the groups are not torn down: a peer may be inside a collective, and the process is about to exit.
    Raises: UserError if the ranks given do not fit the layout.
    """
    rank, size, local_rank = rank_and_size()
    data_parallel_size(config, num_ranks=size)
    name_first_host()
    device = prepare_device(resolve_device(config.device), local_rank)
    read_plain_objects_alone()
    dist.init_process_group(
        backend="nccl" if device.type == "cuda" else "gloo",
        store=meet(rank=rank, size=size, timeout_s=config.timeout_s, speaks=local_rank == 0),
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(seconds=config.timeout_s),
        # With it NCCL connects now and not in the first step, cuts later groups from this one, and refuses tensors of another GPU.
        device_id=device if device.type == "cuda" else None,
    )
    with open_layout(config, seed=seed, device=device) as world:
        yield world
    dist.destroy_process_group()


@contextlib.contextmanager
def open_layout(config: ParallelConfig, *, seed: int, device: torch.device) -> Iterator[World]:
    """Divide ranks that have met into the groups of the layout (collective), and leave the groups at the end.

    On an exception the groups are not torn down, as in ``open_world``. Raises: UserError if the ranks do not fit the layout.
    """
    rank, size = dist.get_rank(), dist.get_world_size()
    replicas = data_parallel_size(config, num_ranks=size)
    if device.type == "cpu":
        share_groups()
    else:
        keep_groups_apart()
    virtual = config.virtual_pipeline_model_parallel_size
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=config.tensor_model_parallel_size,
        pipeline_model_parallel_size=config.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=virtual if virtual > 1 else None,
        context_parallel_size=config.context_parallel_size,
        create_gloo_process_groups=False,  # nothing here uses them, and at scale their start is slow and fails
        distributed_timeout_minutes=max(1, config.timeout_s // 60),
    )
    # Without dropout nothing draws from it; sequence parallelism still forks it.
    model_parallel_cuda_manual_seed(seed)
    yield World(
        rank=rank,
        size=size,
        device=device,
        tp_rank=parallel_state.get_tensor_model_parallel_rank(),
        pp_rank=parallel_state.get_pipeline_model_parallel_rank(),
        dp_rank=parallel_state.get_data_parallel_rank(),
        cp_rank=parallel_state.get_context_parallel_rank(),
        tensor_model_parallel_size=config.tensor_model_parallel_size,
        pipeline_model_parallel_size=config.pipeline_model_parallel_size,
        data_parallel_size=replicas,
        context_parallel_size=config.context_parallel_size,
    )
    parallel_state.destroy_model_parallel()
