"""The batches of a run one after the other, how many steps each has, and what the small ones cost in speed."""

from dataclasses import dataclass, replace

from pretrain.config.schema import RunConfig
from pretrain.config.steps import batch_stage_at, last_step
from pretrain.plan.estimate import StepEstimate, estimate_step
from pretrain.plan.machine import MachineConfig


@dataclass(frozen=True, kw_only=True)
class BatchSpeed:
    """The steps of one batch."""

    global_batch_size: int
    steps: int
    tokens: int
    step_s: float
    speed: float
    """Tokens a second, as a part of those with the fastest batch of the run."""
    gpu_hours: float
    lost_gpu_hours: float
    """Those more than at that speed."""


def batch_sizes(run: RunConfig) -> list[tuple[int, int]]:
    """Return (samples of a step, steps with them) of the whole run from its start, in order; one loop turn per stage."""
    done, consumed, last = 0, 0, last_step(run.optim, run.train)
    found: list[tuple[int, int]] = []
    while done < last:
        batch, end = batch_stage_at(run.train, consumed)
        steps = last - done if end is None else min(last - done, -(-(end - consumed) // batch))
        consumed, done = consumed + steps * batch, done + steps
        if found and found[-1][0] == batch:
            found[-1] = (batch, found[-1][1] + steps)
        else:
            found.append((batch, steps))
    return found


def batch_speeds(estimate: StepEstimate, machine: MachineConfig) -> tuple[BatchSpeed, ...]:
    """Return the speed with every batch of a run, in a layout that the config's rules accept with each of them.

    Fewer micro batches leave the same bubble, the same sum of gradients and the same update to be shared by fewer tokens.
    """
    run, num_gpus = estimate.run, estimate.num_gpus
    found = batch_sizes(run)
    seconds = {
        batch: estimate_step(with_batch(run, batch), machine, num_gpus, document_tokens=estimate.document_tokens).step_s
        for batch in {batch for batch, _ in found}
    }
    best = max(batch / seconds[batch] for batch in seconds)
    speeds = []
    for batch, steps in found:
        hours, speed = steps * seconds[batch] * num_gpus / 3600, batch / seconds[batch] / best
        speeds.append(
            BatchSpeed(
                global_batch_size=batch, steps=steps, tokens=steps * batch * run.data.seq_length, step_s=seconds[batch],
                speed=speed, gpu_hours=hours, lost_gpu_hours=hours * (1 - speed),
            )
        )  # fmt: skip
    return tuple(speeds)


def with_batch(run: RunConfig, batch: int) -> RunConfig:
    """Return the run with one batch from its first step to its last."""
    return replace(run, train=replace(run.train, global_batch_size=batch, batch_ramp=None, batch_stages=[]))
