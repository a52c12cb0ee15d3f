"""``fanal show``: the resolved tree of a run, and what follows from it."""

from rich.console import Console
from rich.table import Table

from pretrain.config.derive import (
    global_batch_size_at,
    lr_decay_samples,
    model_parallel_size,
    num_microbatches,
    padded_vocab_size,
    train_samples,
    world_size,
)
from pretrain.config.load import to_yaml
from pretrain.config.schema import RunConfig
from pretrain.model.families.sizes import num_parameters
from pretrain.model.flops import flops_per_token

WIDTH = 10_000
"""Columns of a pipe or a file, which wrap nothing."""


def consequences(run: RunConfig) -> dict[str, str]:
    """Every figure that follows from the config, by name, readable."""
    train, seq_length = run.train, run.data.seq_length
    replicas = run.parallel.data_parallel_size or 1
    samples = train_samples(train)
    full, causal = (flops_per_token(run.model, seq_length, causal=causal) for causal in (False, True))
    first = global_batch_size_at(train, 0)
    rows = {
        "parameters": f"{num_parameters(run.model):,}",
        "vocabulary in memory": f"{padded_vocab_size(run.model):,} rows for {run.model.vocab_size:,} tokens",
        "ranks": f"{world_size(run.parallel):,} ({model_parallel_size(run.parallel)} per replica"
        + (f", {replicas} replicas)" if run.parallel.data_parallel_size else "; more ranks, more replicas)"),
        "tokens per step": f"{train.global_batch_size * seq_length:,}"
        + (f" (from {first * seq_length:,} at the start)" if first != train.global_batch_size else ""),
        "microbatches per step and rank": str(
            num_microbatches(
                global_batch_size=train.global_batch_size,
                micro_batch_size=train.micro_batch_size,
                data_parallel_size=replicas,
            )
        ),
        "begins with": begins_with(run.checkpoint.init_from, run.checkpoint.init_optimizer),
        "steps": f"{train.train_steps:,}",
        "samples": f"{samples:,}",
        "tokens": f"{samples * seq_length:,}",
        "learning rate": f"{run.optim.lr:g} -> {run.optim.min_lr:g}, {run.optim.lr_decay_style}",
        "warm-up": f"{run.optim.lr_warmup_samples:,} of {lr_decay_samples(run.optim, train):,} samples",
        "FLOPs per token": f"{full:.4g} with full attention",
        "FLOPs per token, causal half": f"{causal:.4g}",
        "FLOPs in all": f"{full * samples * seq_length:.4g} with full attention",
    }
    return rows


def begins_with(init_from: str | None, init_optimizer: str) -> str:
    """Return a phrase that says where the weights come from."""
    if init_from is None:
        return "initial weights"
    return f"the weights of {init_from}, {'its optimizer kept' if init_optimizer == 'keep' else 'a fresh optimizer'}"


def show(run: RunConfig, console: Console) -> None:
    """Print the resolved tree as YAML, then a table of consequences: as wide as they are where no terminal cuts it."""
    console.print(to_yaml(run), end="", highlight=False, markup=False, soft_wrap=True)
    table = Table("what follows", "", show_edge=False, header_style="bold")
    for name, value in consequences(run).items():
        table.add_row(name, value)
    wide = console if console.is_terminal else Console(file=console.file, width=WIDTH)
    wide.print(table)
