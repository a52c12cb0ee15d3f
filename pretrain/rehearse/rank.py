"""One rank of a layout, in this process: built and stepped by the trainer's own code, on tensors without values."""

import time
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer
from torch._subclasses.fake_tensor import FakeTensorMode

from fanal.errors import UserError
from pretrain.config.derive import num_microbatches
from pretrain.config.schema import RunConfig
from pretrain.config.steps import last_batch_size
from pretrain.model import recompute
from pretrain.model.gpt import attention_choice, build_model, unwrap
from pretrain.optim.optimizer import build_optimizer, set_learning_rate
from pretrain.optim.states import inner_optimizers
from pretrain.parallel.device import prepare_device
from pretrain.parallel.world import World, open_layout
from pretrain.rehearse.batches import forget_positions, micro_batches
from pretrain.rehearse.groups import group_names, meet_nobody
from pretrain.rehearse.meter import Counts, Meter
from pretrain.rehearse.record import Line, Part, Rehearsal
from pretrain.rehearse.stand_ins import (
    LikeCuda,
    missing,
    put_fake_gpu_in_place_of_cuda,
    replace_what_needs_values,
    stand_in_for_packages,
    take_fake_gpu,
)
from pretrain.rehearse.steps import counts_of, steps_to_rehearse
from pretrain.state import TrainState
from pretrain.train.stability import Stability
from pretrain.train.step import train_step
from pretrain.train.stop import Requests

WEIGHTS, GRADIENTS, OPTIMIZER = "weights", "gradients of the weights", "optimizer: masters and moments"


def rehearse_rank(
    run: RunConfig, *, rank: int, num_ranks: int, device_type: Literal["gpu", "cpu"] = "gpu"
) -> Rehearsal:
    """Build the model and the optimizer of one rank, and rehearse its steps. No GPU, no other rank and no file is needed.

    This process is good for further rehearsals afterwards, and for nothing else.
    Args: device_type: "cpu" rehearses a rank that trains on a CPU.
    Raises: UserError if the ranks do not fit the layout, or PyTorch is another than was tested; RuntimeError from torch where
        tensors on two devices meet.
    """
    began_s = time.perf_counter()
    # Nothing is compiled here: what torch compiles keeps what its operation does, and a definition run as it is written keeps more.
    # Nor is anything computed in some order; megatron's own switch of that looks for a GPU.
    run = replace(run, train=replace(run.train, compile=False, deterministic=False))
    gone = missing()
    if gone:
        raise UserError(
            f"fanal rehearse needs what PyTorch {torch.__version__} does not have ({', '.join(gone)}); the version in "
            "constraints.txt works"
        )
    forget_positions()
    replace_what_needs_values()
    device = take_fake_gpu() if device_type == "gpu" else prepare_device("cpu", 0)
    meet_nobody(device, rank=rank, num_ranks=num_ranks)
    with ExitStack() as stack:
        meter = Meter(device.type)
        recompute.resize = meter.ledger.resize
        if device_type == "gpu":
            put_fake_gpu_in_place_of_cuda(device, meter)
            stand_in_for_packages(run.model.attention_backend, meter)
        stack.enter_context(LikeCuda())
        world = stack.enter_context(open_layout(run.parallel, seed=run.train.seed, device=device))
        meter.group_names = group_names()
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(meter)
        found = _rehearse(run, world, meter, began_s)
    dist.destroy_process_group()
    return found


def _rehearse(run: RunConfig, world: World, meter: Meter, began_s: float) -> Rehearsal:
    ledger = meter.ledger
    model = build_model(run, world, initial_values=False)
    _name_model(meter, model)
    model_bytes = ledger.live_bytes
    optimizer = build_optimizer(run, model)
    _name_optimizer(meter, model, optimizer)
    with_optimizer_bytes = ledger.live_bytes
    count = num_microbatches(
        global_batch_size=last_batch_size(run.train),
        micro_batch_size=run.train.micro_batch_size,
        data_parallel_size=world.data_parallel_size,
    )
    first, few, more = steps_to_rehearse(run.parallel, count)
    stability = Stability(run, world, model, optimizer)
    _step(run, world, meter, model, optimizer, stability, first)  # it makes what later ones find
    _name_optimizer(meter, model, optimizer)
    after_step_bytes = ledger.live_bytes
    of_few = _step(run, world, meter, model, optimizer, stability, few) if few < more else Counts()
    of_more = _step(run, world, meter, model, optimizer, stability, more)
    lines = _lines(meter)
    return Rehearsal(
        rank=world.rank,
        num_ranks=world.size,
        tp_rank=world.tp_rank,
        pp_rank=world.pp_rank,
        dp_rank=world.dp_rank,
        cp_rank=world.cp_rank,
        micro_batches=count,
        rehearsed_micro_batches=more,
        num_layers=sum(len(chunk.decoder.layers) for chunk in unwrap(model)),
        num_parameters=sum(parameter.numel() for chunk in model for parameter in chunk.parameters()),
        attention=attention_choice(model).name,
        model_bytes=model_bytes,
        with_optimizer_bytes=with_optimizer_bytes,
        after_step_bytes=after_step_bytes,
        peak_bytes=ledger.peak_bytes,
        peak_parts=_parts(lines),
        peak_lines=lines,
        step=counts_of(count, few, of_few, more, of_more).step(),
        seconds=time.perf_counter() - began_s,
    )


def _step(
    run: RunConfig,
    world: World,
    meter: Meter,
    model: list[DistributedDataParallel],
    optimizer: MegatronOptimizer,
    stability: Stability,
    count: int,
) -> Counts:
    """Rehearse a step of ``count`` micro batches, with a stability report if the run writes any, and return what it did."""
    meter.begin()
    set_learning_rate(optimizer, run.optim.lr)
    state = TrainState()
    with stability.around(run.log.stability_interval or 1):
        result = train_step(
            model,
            optimizer,
            micro_batches(run, world, count),
            run,
            world,
            state=state,
            global_batch_size=count * run.train.micro_batch_size * world.data_parallel_size,
            domains=["all"],
            questions=Requests(run.train, None).asked_here,  # as the loop has it (train/loop.py)
        )
    stability.record(state)
    assert result.skipped is None, f"a rehearsed step is a whole one, and this one was skipped: {result.skipped}"
    return meter.counts


def _name_model(meter: Meter, model: list[DistributedDataParallel]) -> None:
    for chunk in model:
        meter.ledger.name(chunk.parameters(), WEIGHTS)
        buffers: list[Any] = [*chunk.buffers]  # type: ignore[misc]  # megatron hides Module's buffers by a list
        meter.ledger.name([buffer.param_data for buffer in buffers if buffer.param_data is not None], WEIGHTS)
        meter.ledger.name([buffer.grad_data for buffer in buffers], GRADIENTS)


def _name_optimizer(meter: Meter, model: list[DistributedDataParallel], optimizer: MegatronOptimizer) -> None:
    weights = {parameter.untyped_storage()._cdata for chunk in model for parameter in chunk.parameters()}
    for inner in inner_optimizers(optimizer):
        groups, states = inner.optimizer.param_groups, inner.optimizer.state.values()
        masters = [main for group in groups for main in group["params"]]
        own = [main for main in masters if main.untyped_storage()._cdata not in weights]  # in fp32 they are the weights
        kept = [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]
        meter.ledger.name([*own, *kept], OPTIMIZER)


def _lines(meter: Meter) -> tuple[Line, ...]:
    lines = [
        Line(kind=kind, place=where, operation=operation, num_tensors=tensors, num_bytes=size)
        for (kind, where, operation), (tensors, size) in meter.ledger.at_peak().items()
    ]
    return tuple(sorted(lines, key=lambda line: (-line.num_bytes, line.place, line.operation, line.kind)))


def _parts(lines: tuple[Line, ...]) -> tuple[Part, ...]:
    sizes: dict[str, int] = {}
    for line in lines:
        sizes[line.kind] = sizes.get(line.kind, 0) + line.num_bytes
    return tuple(Part(kind=kind, num_bytes=size) for kind, size in sorted(sizes.items(), key=lambda one: -one[1]))
