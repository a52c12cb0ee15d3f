"""Time the update of every optimizer beside torch's fused AdamW, and count the bytes of what it keeps: `make bench-optimizers`.

    python -m bench.optimizers [--rounds N] [--only NAMES]

The optimizers are those that the config knows (`optim.name`), each as a run on one rank builds it, over the weights of the model of
`make bench-step` in fp32. The update alone is timed, of the same gradients each time, in CPU seconds of all threads, in turns.
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer

from bench.compare import Timing, append_result, ratio, shuffled, table
from bench.step.ours import one_rank, run_config
from bench.step.task import Shape, fused_adamw
from fanal.errors import UserError
from pretrain.config.schema import OptimConfig
from pretrain.model.gpt import build_model
from pretrain.optim.optimizer import build_optimizer, set_learning_rate
from pretrain.optim.registry import optimizer_of
from pretrain.optim.states import inner_optimizers, owned_states
from pretrain.parallel.world import World

RESULTS = Path(__file__).parent / "results" / "optimizers.md"
NAMES: tuple[str, ...] = get_args(get_type_hints(OptimConfig)["name"])
TORCH = "torch's fused AdamW"
THREADS = 1
NOT_COUNTED = 2
"""Updates before the first round: what is made lazily is there."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """An optimizer over a model of its own."""

    title: str
    update: Callable[[], None]
    """Make an update of gradients that are ready."""
    ready: Callable[[], None]
    """Make the gradients ready, which an update may have used up."""
    bytes_a_parameter: float
    """Of masters and states."""

    def timed(self) -> dict[str, float]:
        """Return the CPU seconds of one update."""
        self.ready()
        began = time.process_time()
        self.update()
        return {self.title: time.process_time() - began}


def ours(name: str, world: World) -> Contender:
    """Build the optimizer of a name as a run does. Schedules of its own are at their end."""
    sound = run_config(Shape(), "fp32")
    of_steps = {field: 0 for field in OptimConfig.__dataclass_fields__ if field.endswith("_warmup_steps")}
    run = replace(sound, optim=replace(sound.optim, name=name, **of_steps))
    model = build_model(run, world)
    optimizer = build_optimizer(run, model)
    set_learning_rate(optimizer, run.optim.lr)
    gradients = [torch.randn_like(buffer.grad_data) * 1e-3 for buffer in _buffers(model)]
    kept = sum(tensor.numel() * 4 for owned in owned_states(optimizer) for tensor in owned.states.values())
    return Contender(
        title=optimizer_of(run.optim).title,
        update=lambda: _update(optimizer),
        ready=lambda: _fill(model, optimizer, gradients),
        bytes_a_parameter=kept / _num_parameters(model),
    )


def _fill(
    model: Sequence[DistributedDataParallel], optimizer: MegatronOptimizer, gradients: Sequence[torch.Tensor]
) -> None:
    for buffer, values in zip(_buffers(model), gradients, strict=True):
        buffer.grad_data.copy_(values)
    optimizer.prepare_grads()


def _buffers(model: Sequence[DistributedDataParallel]) -> list[Any]:
    return [buffer for chunk in model for buffer in chunk.buffers]  # type: ignore[misc]  # megatron hides Module's buffers by a list


def _update(optimizer: MegatronOptimizer) -> None:
    for inner in inner_optimizers(optimizer):
        inner.optimizer.step()


def _num_parameters(model: Sequence[DistributedDataParallel]) -> int:
    return sum(parameter.numel() for chunk in model for parameter in chunk.parameters())


def of_torch(world: World) -> Contender:
    """Build torch's fused AdamW over weights of the same sizes."""
    model = build_model(run_config(Shape(), "fp32"), world)
    weights = [torch.nn.Parameter(weight.detach().clone()) for chunk in model for weight in chunk.parameters()]
    for weight in weights:
        weight.grad = torch.randn_like(weight) * 1e-3
    optimizer = fused_adamw(weights)
    return Contender(title=TORCH, update=lambda: optimizer.step(), ready=lambda: None, bytes_a_parameter=12.0)


def report(found: Mapping[str, Timing], contenders: Sequence[Contender], num_parameters: int) -> str:
    """Return the table: nanoseconds a parameter, and their ratio to torch's inside each round."""
    rows = []
    for contender in contenders:
        timing = found[contender.title]
        least, most = (seconds / num_parameters * 1e9 for seconds in timing.range_s)
        median, low, high = ratio(timing, found[TORCH])
        rows.append(
            [
                contender.title,
                f"{timing.median_s / num_parameters * 1e9:.2f} [{least:.2f} to {most:.2f}]",
                f"{median:.2f} [{low:.2f} to {high:.2f}]",
                f"{contender.bytes_a_parameter:.1f}",
            ]
        )
    header = ["optimizer", "CPU, ns a parameter", "its time / torch's", "bytes a parameter, masters and states"]
    setting = f"{num_parameters / 1e6:.1f} M parameters, fp32, one rank; load average {os.getloadavg()[0]:.1f}."
    return f"{setting}\n\n{table(header, rows)}"


def main(arguments: Sequence[str]) -> int:
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(
        prog="python -m bench.optimizers", description="Time the update of every optimizer."
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(NAMES), metavar="NAMES")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    try:
        if given.rounds < 1:
            raise UserError(f"--rounds ({given.rounds}) must be at least 1; --rounds 5 works")
        if unknown := [name for name in given.only if name not in NAMES]:
            raise UserError(f"--only ({','.join(unknown)}) must name optimizers; --only {','.join(NAMES)} works")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    torch.set_num_threads(THREADS)
    with one_rank() as world:
        contenders = [of_torch(world), *(ours(name, world) for name in given.only)]
        num_parameters = _num_parameters(build_model(run_config(Shape(), "fp32"), world))
        for contender in contenders:
            for _ in range(NOT_COUNTED):
                contender.timed()
        found = shuffled({contender.title: contender.timed for contender in contenders}, rounds=given.rounds)
    append_result(
        given.results,
        f"Updates, {THREADS} thread, {given.rounds} rounds",
        report(found, contenders, num_parameters),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
