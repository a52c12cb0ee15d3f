"""Whether a run fits in memory, asked before any is taken: what is too large would be killed by the kernel without a word."""

from collections.abc import Mapping
from typing import Literal

from fanal.errors import PassingError, UserError
from fanal.host_memory import host_memory
from pretrain.config.schema import RunConfig
from pretrain.parallel.device_type import gpu_memory_bytes
from pretrain.train.least_memory import ON_THE_HOST, least_bytes


def check_memory(
    run: RunConfig, *, device_type: Literal["cuda", "cpu"], num_ranks: int, ranks_here: int, is_first: bool = True
) -> None:
    """Refuse a run that needs more than there is, by a lower bound of what it needs. No collective.

    Args: ranks_here, those on this machine; is_first, whether none of them has taken memory yet, so that what is free counts.
    Raises: UserError if this machine never has so much; PassingError if it is only taken by others now.
    """
    needed = least_bytes(run, num_ranks=num_ranks)
    if device_type == "cuda":
        on_gpu = {name: size for name, size in needed.items() if name not in ON_THE_HOST}
        share, gpu = sum(on_gpu.values()) // num_ranks, gpu_memory_bytes()
        if share > gpu:
            raise UserError(_too_large(run, on_gpu, share, f"a GPU, and one has {_size(gpu)}", num_ranks))
        needed = {name: size for name, size in needed.items() if name in ON_THE_HOST}
    here, memory = sum(needed.values()) * ranks_here // num_ranks, host_memory()
    where = f"the {_ranks(ranks_here)} on this machine"
    if here > memory.total_bytes:
        there = f"{where}, and it has {_size(memory.total_bytes)} ({memory.source})"
        raise UserError(_too_large(run, needed, here, there, num_ranks))
    if is_first and here > memory.available_bytes:
        raise PassingError(
            f"the run needs at least {_size(here)} of memory for {where}, and of its {_size(memory.total_bytes)} only "
            f"{_size(memory.available_bytes)} are free now: start again when other programs have ended"
        )


def _too_large(run: RunConfig, parts: Mapping[str, int], needed: int, where: str, num_ranks: int) -> str:
    largest = max(parts, key=lambda name: parts[name])
    model, train = run.model, run.train
    of = {
        "train.offload_activations": f"inputs of layers on the host (train.offload_activations=true), of train.micro_batch_size "
        f"({train.micro_batch_size}) x data.seq_length ({run.data.seq_length})",
        "activations": f"train.micro_batch_size ({train.micro_batch_size}) x data.seq_length ({run.data.seq_length})",
        "logits": f"train.micro_batch_size ({train.micro_batch_size}) x data.seq_length ({run.data.seq_length}) x "
        f"model.vocab_size ({model.vocab_size})",
        "data.prefetch_bytes": f"data.prefetch_bytes ({run.data.prefetch_bytes}); data.prefetch_bytes=0 works",
        "processes": f"the processes of {_ranks(num_ranks)}; more machines, or fewer ranks in section parallel",
    }.get(
        largest,
        f"{largest} of a model of model.num_layers ({model.num_layers}) x model.hidden_size ({model.hidden_size}), "
        f"model.ffn_hidden_size ({model.ffn_hidden_size}) and model.vocab_size ({model.vocab_size}) in {_ranks(num_ranks)}",
    )
    advice = "" if "works" in of or "more machines" in of else "; smaller ones, or more ranks on more machines"
    return f"the run needs at least {_size(needed)} of memory for {where}. Most of it is for {of}{advice}"


def _ranks(count: int) -> str:
    return "1 rank" if count == 1 else f"{count:,} ranks"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:,.1f} MB"
