"""``fanal show``: the resolved tree of a run, and what follows from it."""

from pathlib import Path

from rich.table import Table

from fanal.console import Console
from fanal.errors import FanalError, UserError
from fanal.run_folder import checkpoints_dir, step_name
from fanal.run_progress import NEW_RUN, Standing, standing
from fanal.shown import on_one_line
from pretrain.checkpoint.disk.config_file import read_schedule
from pretrain.checkpoint.loading.rate_change import another_start, past_its_end, rate_change
from pretrain.config.derive import (
    has_sliding_window,
    loss_chunk_tokens,
    model_parallel_size,
    num_microbatches,
    offloaded_layers,
    padded_vocab_size,
    recomputed_layers,
    tokens_per_pass,
    world_size,
)
from pretrain.config.load import to_yaml
from pretrain.config.schema import RunConfig, TrainConfig
from pretrain.config.stages import chunk_sizes, sizes_text
from pretrain.config.steps import (
    DECAY_ON_REQUEST,
    global_batch_size_at,
    last_batch_size,
    last_step,
    lr_decay_samples,
    step_at,
    train_samples,
)
from pretrain.inspect.mixture import show_mixture
from pretrain.model.families import family_of
from pretrain.model.families.sizes import checkpoint_bytes, num_parameters
from pretrain.model.flops import flops_per_token
from pretrain.optim.registry import num_states, optimizer_of
from pretrain.optim.schedule import final_decay_start
from pretrain.plan.estimate import GIB
from pretrain.plan.memory import stage_peaks
from pretrain.plan.retention import checkpoint_inodes, most_at_once
from pretrain.plan.whole_run_table import size_text
from pretrain.train.least_memory import WEIGHT_BYTES

MOST_STAGES = 20
"""Batch stages that a row names."""
WIDTH = 10_000
"""Columns of a pipe or a file, which wrap nothing."""


def consequences(run: RunConfig, since: Standing = NEW_RUN) -> dict[str, str]:
    """Every figure that follows from the config, by name, readable.

    Args: since: the point from which the run would resume; what it did before may have been done with another batch.
    """
    train, seq_length, stated = run.train, run.data.seq_length, optimizer_of(run.optim)
    replicas = run.parallel.data_parallel_size or 1
    samples, full_batch = train_samples(run.optim, train, since), last_batch_size(train)
    full, causal = (flops_per_token(run.model, seq_length, causal=causal) for causal in (False, True))
    next_batch = global_batch_size_at(train, since.consumed_samples)
    begins = f"at step {since.step + 1:,}" if since.step else "at the start"
    rows = {
        "parameters": f"{num_parameters(run.model):,}",
        "Hugging Face": _class_of(run),
        "vocabulary in memory": f"{padded_vocab_size(run.model):,} rows for {run.model.vocab_size:,} tokens",
        "ranks": f"{world_size(run.parallel):,} ({model_parallel_size(run.parallel)} per replica"
        + (f", {replicas} replicas)" if run.parallel.data_parallel_size else "; more ranks, more replicas)"),
        **_context_of(run),
        **_pipeline_of(run),
        "tokens per step": f"{full_batch * seq_length:,}"
        + (f" (from {next_batch * seq_length:,} {begins})" if next_batch != full_batch else ""),
        **_stages_of(train, seq_length, since),
        "microbatches per step and rank": str(
            num_microbatches(
                global_batch_size=full_batch,
                micro_batch_size=train.micro_batch_size,
                data_parallel_size=replicas,
            )
        ),
        "computed again": _recomputed(run),
        **_offloaded(run),
        "logits in memory": _logits_of(run),
        "memory of a rank, planned": _memory_of(run),
        "begins with": begins_with(run.checkpoint.init_from, run.checkpoint.init_optimizer),
        "steps": f"{last_step(run.optim, train, since):,}"
        + (f" ({since.step:,} done, with {since.consumed_samples:,} samples)" if since.step else ""),
        "samples": f"{samples:,}",
        "tokens": f"{samples * seq_length:,}",
        "optimizer": f"{stated.title}, {stated.described(run.optim)}",
        "masters and states": _bytes_a_parameter(run),
        "checkpoint": _checkpoint_of(run),
        "learning rate": f"{run.optim.lr:g} -> {run.optim.min_lr:g}, {run.optim.lr_decay_style}",
        **_final_decay_of(run, since),
        "warm-up": f"{run.optim.lr_warmup_samples:,} of {lr_decay_samples(run.optim, train, since):,} samples",
        **_window_of(run),
        "FLOPs per token": f"{full:.4g} with full attention",
        "FLOPs per token, causal half": f"{causal:.4g}",
        "FLOPs in all": f"{full * samples * seq_length:.4g} with full attention",
    }
    return rows


def _recomputed(run: RunConfig) -> str:
    """Return a phrase of what the backward pass computes again."""
    train, sizes = run.train, chunk_sizes(run.model, run.parallel)
    if train.recompute == "selective":
        return f"{', '.join(train.recompute_modules)} of every layer"
    layers = [recomputed_layers(train, num_layers=size) for size in sizes]
    if not any(layers):
        return "nothing"
    if len(set(sizes)) > 1:
        return f"{sum(layers):,} of {run.model.num_layers:,} layers, the first of each model chunk"
    return f"{layers[0]:,} of {sizes[0]:,} layers of a model chunk"


def _offloaded(run: RunConfig) -> dict[str, str]:
    """Return the row of what a rank has in the host's memory in place of its GPU's, of a run that has it."""
    train, parallel, sizes = run.train, run.parallel, chunk_sizes(run.model, run.parallel)
    layers = [len(offloaded_layers(train, chunk=chunk, sizes=sizes)) for chunk in range(len(sizes))]
    pipeline = parallel.pipeline_model_parallel_size
    most = max(sum(layers[rank::pipeline]) for rank in range(pipeline))
    if not train.offload_activations:
        return {}
    split = parallel.tensor_model_parallel_size if parallel.sequence_parallel else 1
    one = tokens_per_pass(run) * run.model.hidden_size * WEIGHT_BYTES[train.precision] // split
    return {
        "in the host's memory": f"inputs of {sum(layers):,} of {run.model.num_layers:,} layers, up to {most:,} on a rank, each of "
        f"{one / 2**20:,.1f} MiB for each micro batch under way"
    }


def _logits_of(run: RunConfig) -> str:
    """Return a phrase of how many tokens' logits lie in memory at a time."""
    tokens = tokens_per_pass(run)
    chunk = loss_chunk_tokens(run.train, tokens=tokens)
    return f"{min(tokens, chunk or tokens):,} of {tokens:,} tokens of a micro batch"


def _memory_of(run: RunConfig) -> str:
    """Return a phrase of the memory at the peak of a step, of the pipeline stage that takes most (pretrain/plan/memory.py)."""
    peaks = stage_peaks(run, world_size(run.parallel))
    worst = max(range(len(peaks)), key=peaks.__getitem__)
    stage = f" of stage {worst} of {len(peaks)}" if len(peaks) > 1 else ""
    return f"{peaks[worst] / GIB:,.2f} GiB at the peak{stage}"


def _checkpoint_of(run: RunConfig) -> str:
    """Return a phrase of the size of a checkpoint and of how many there are at most."""
    size = checkpoint_bytes(run.model, num_states=num_states(run.optim))
    files, _ = checkpoint_inodes(run, num_ranks=world_size(run.parallel))
    return f"{size_text(size)}, {files:,} files; up to {most_at_once(run, ()):,} at once"


def _stages_of(train: TrainConfig, seq_length: int, since: Standing) -> dict[str, str]:
    """Return the row of the batches that take over later, of a run that states them."""
    stages = [
        f"{stage.global_batch_size:,} samples ({stage.global_batch_size * seq_length:,} tokens) from sample "
        f"{stage.start_sample:,}"
        + (
            f", after step {step_at(train, stage.start_sample, since):,}"
            if stage.start_sample > since.consumed_samples
            else ""
        )
        for stage in train.batch_stages[:MOST_STAGES]
    ]
    more = len(train.batch_stages) - len(stages)
    return {"batch stages": "; ".join(stages) + (f"; and {more:,} more" if more else "")} if stages else {}


def _final_decay_of(run: RunConfig, since: Standing) -> dict[str, str]:
    """Return the row of the final decay, of a WSD or constant rate."""
    optim, train = run.optim, run.train
    if optim.lr_decay_style not in DECAY_ON_REQUEST or optim.lr_wsd_decay_samples is None:
        return {}
    start, end = final_decay_start(optim, train, since), lr_decay_samples(optim, train, since)
    if start is None:
        return {"final decay": f"{optim.lr_wsd_decay_style}, {optim.lr_wsd_decay_samples:,} samples, on request"}
    last, over = last_step(optim, train, since), step_at(train, end, since)
    steps = (
        f"after step {step_at(train, start, since):,} to {over:,}"
        if start > since.consumed_samples
        else f"to step {over:,}"
    )
    cut = "" if over <= last else f"; the run ends before, with step {last:,}"
    return {"final decay": f"{optim.lr_wsd_decay_style}, from sample {start:,} to {end:,}, {steps}{cut}"}


def _context_of(run: RunConfig) -> dict[str, str]:
    """Return the row of what a rank has of a sequence, of a layout that divides sequences."""
    size, seq_length = run.parallel.context_parallel_size, run.data.seq_length
    if size == 1:
        return {}
    return {"ranks of a sequence": f"{size}, each with {seq_length // size:,} of {seq_length:,} tokens"}


def _bytes_a_parameter(run: RunConfig) -> str:
    kept = checkpoint_bytes(run.model, num_states=num_states(run.optim))
    mean = 4 * kept / checkpoint_bytes(run.model, num_states=1)
    return f"{mean:.3g} bytes a parameter" + (" in the mean" if mean % 4 else "")


def _window_of(run: RunConfig) -> dict[str, str]:
    """Return the row of the sliding window, of a model that has one."""
    model, seq_length = run.model, run.data.seq_length
    if model.sliding_window is None:
        return {}
    layers = sum(has_sliding_window(model, layer) for layer in range(model.num_layers))
    said = f"{model.sliding_window:,} positions, in {layers:,} of {model.num_layers:,} layers"
    return {"window": said + ("; hides nothing of a sample" if model.sliding_window >= seq_length else "")}


def _pipeline_of(run: RunConfig) -> dict[str, str]:
    """Return the row of the layers of every pipeline stage, of a run that has more than one."""
    sizes = chunk_sizes(run.model, run.parallel)
    return {"layers of the stages": sizes_text(sizes)} if len(sizes) > 1 else {}


def _class_of(run: RunConfig) -> str:
    try:
        return family_of(run.model).architecture
    except UserError as error:
        return str(error)


def begins_with(init_from: str | None, init_optimizer: str) -> str:
    """Return a phrase that says where the weights come from."""
    if init_from is None:
        return "initial weights"
    return f"the weights of {init_from}, {'its optimizer kept' if init_optimizer == 'keep' else 'a fresh optimizer'}"


def show(run: RunConfig, console: Console) -> None:
    """Print the resolved tree as YAML, then a table of consequences: as wide as they are where no terminal cuts it."""
    console.print(to_yaml(run), end="", soft_wrap=True)
    since = standing(Path(run.run_dir))
    rows = consequences(run, since) | at_the_resume(run, since)
    table = Table("what follows", "", show_edge=False, header_style="bold")
    for name, value in rows.items():
        table.add_row(name, on_one_line(value))
    wide = console if console.is_terminal else Console(file=console.file, width=WIDTH)
    wide.print(table)
    show_mixture(run, since, wide)


def at_the_resume(run: RunConfig, since: Standing) -> dict[str, str]:
    """What changes where the run resumes: a row, or none."""
    if not since.step:
        return {}
    try:
        saved = read_schedule(checkpoints_dir(run.run_dir) / step_name(since.step))
    except FanalError:  # the resume says so, and starts from another checkpoint
        return {}
    change = rate_change(saved, run.optim, run.train, since) if saved else None
    line = change or another_start(run.optim, since) or past_its_end(run.optim, run.train, since)
    return {"at the resume": line} if line else {}
