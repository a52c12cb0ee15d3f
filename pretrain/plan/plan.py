"""``fanal plan``: the search, the config's own layout beside it, and rehearsals of the best few."""

import os

from fanal.errors import UserError
from pretrain.config.rules import check_ranks
from pretrain.config.schema import RunConfig
from pretrain.parallel.caches import use_private_caches
from pretrain.plan.estimate import StepEstimate, estimate_step, on_device_of
from pretrain.plan.machine import MachineConfig
from pretrain.plan.search import search
from pretrain.plan.table import Plan
from pretrain.rehearse.rehearse import rehearse


def plan(
    config: str,
    run: RunConfig,
    machine: MachineConfig,
    machine_name: str,
    *,
    num_gpus: int,
    top: int,
    rehearsals: int,
    document_tokens: int | None = None,
) -> Plan:
    """Plan the layout of a run on so many GPUs.

    Args: top: layouts to return; rehearsals: how many of them to rehearse, 10 to 30 s each; document_tokens: of every document.
    Raises: UserError if no layout fits, or a number is out of range.
    """
    if top < 1:
        raise UserError(f"--top ({top}) must be at least 1; --top 5 works")
    if rehearsals < 0:
        raise UserError(f"--rehearse ({rehearsals}) must not be negative; --rehearse 0 rehearses none")
    if document_tokens is not None and document_tokens < 1:
        raise UserError(f"--document-tokens ({document_tokens}) must be at least 1; --document-tokens 1000 works")
    run = on_device_of(run, machine)
    found = search(run, machine, num_gpus, document_tokens=document_tokens)
    best = found.fitting[:top]
    return Plan(
        config=config,
        machine_name=machine_name,
        machine=machine,
        found=found,
        own=_own(run, machine, num_gpus, document_tokens),
        best=best,
        rehearsed=[_rehearsed(one) if number < rehearsals else None for number, one in enumerate(best)],
    )


def _own(run: RunConfig, machine: MachineConfig, num_gpus: int, document_tokens: int | None) -> StepEstimate | None:
    """Return the estimate of the config's own layout; None where it does not fit the GPUs."""
    try:
        check_ranks(run, num_gpus)
    except UserError:
        return None
    return estimate_step(run, machine, num_gpus, document_tokens=document_tokens)


def _rehearsed(one: StepEstimate) -> int:
    """Return the bytes at the peak of the stage that takes most. Its processes warn of packages that nobody misses, as in
    ``fanal rehearse``."""
    use_private_caches()
    os.environ.setdefault("PYTHONWARNINGS", "ignore::UserWarning,ignore::FutureWarning")
    ranks = rehearse(one.run, num_ranks=one.num_gpus)
    return max(rank.peak_bytes for rank in ranks)
