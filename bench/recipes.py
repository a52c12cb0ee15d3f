"""The table of the recipes in docs/recipes.md, from the YAML files themselves: ``python -m bench.recipes``.

``python -m bench.recipes --rehearse`` first counts the memory of each recipe whose model, batch or layout changed since its peak
was last counted (``fanal rehearse``; minutes), into tests/golden/rehearsals/recipes.json.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import MISSING as NONE
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pretrain.config.derive import loss_chunk_tokens, tokens_per_pass, world_size
from pretrain.config.layout_words import split_axes
from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from pretrain.config.steps import last_batch_size, train_samples
from pretrain.model.families.sizes import num_parameters
from pretrain.model.flops import flops_per_token
from pretrain.rehearse.rehearse import first_of_stages, in_processes

ROOT = Path(__file__).parents[1]
RECIPES = sorted([*(ROOT / "configs" / "models").rglob("*.yaml"), *(ROOT / "configs" / "lucie-7b").glob("*.yaml")])
PAGE = ROOT / "docs" / "recipes.md"
MEMORY = ROOT / "tests" / "golden" / "rehearsals" / "recipes.json"
BEGIN, END = "<!-- the table of python -m bench.recipes -->", "<!-- its end -->"
GIB = 2**30
GPU_GIB = 80
LARGEST = GPU_GIB * 0.9
"""GiB of an 80 GB GPU, without the tenth that a rehearsal leaves to what it does not count."""
NO_MEMORY = {
    "train_steps", "seed", "spikes", "watchdog", "validation_interval", "validation_samples", "batch_ramp", "global_batch_size",
    "z_loss_weight", "init_method_std", "batch_stages",
}  # fmt: skip
"""Keys of model and train on which no rank's memory depends."""


def name_of(recipe: Path) -> str:
    """Return the name of a recipe: its model and phase."""
    return f"{recipe.parent.name}-{recipe.stem}"


def embedding_parameters(run: RunConfig) -> int:
    """Return the weights with a row for each token: the embedding, and an output layer that is not tied to it."""
    tables = 1 if run.model.share_embeddings_and_output_weights else 2
    return tables * run.model.vocab_size * run.model.hidden_size


def layout(run: RunConfig) -> str:
    """Return a layout in a few letters, such as TP4 PP2 CP2 DP64 x 1 (the micro batch), and what is computed again."""
    train, laid_out = run.train, " ".join(split_axes(run.parallel))
    return f"{laid_out} x {train.micro_batch_size}" + f", {train.recompute} recompute" * (train.recompute != "none")


def fingerprint(run: RunConfig) -> str:
    """Return a short hash of what a rank's memory depends on: shape, layout, micro batches at a time, sequence, kernels, states.

    A key at its default is not in it, so that a new key changes nothing; a chunk of the loss that follows is.
    """
    parallel, train = run.parallel, run.train
    micro_batches = train.global_batch_size // (train.micro_batch_size * (parallel.data_parallel_size or 1))
    at_a_time = 2 * parallel.pipeline_model_parallel_size * parallel.virtual_pipeline_model_parallel_size
    sections = [_stated(section) for section in (run.model, parallel, run.kernels, train)]
    what = [*sections, run.data.seq_length, run.data.document_mask, min(micro_batches, at_a_time)]
    what += [
        state for state in (run.optim.name, "ema" * (run.optim.ema_decay is not None)) if state not in ("adamw", "")
    ]
    chunk = loss_chunk_tokens(train, tokens=tokens_per_pass(run))
    what += [] if train.loss_chunk_tokens is not None or chunk is None else [f"loss in chunks of {chunk}"]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def _stated(section: Any) -> dict[str, Any]:
    """Return the keys of a section that are not at their defaults, but for those on which no memory depends."""
    found = {field.name: getattr(section, field.name) for field in fields(section) if "rotary" not in field.name}
    defaults = {
        field.name: field.default if field.default_factory is NONE else field.default_factory()
        for field in fields(section)
    }
    return {name: value for name, value in found.items() if name not in NO_MEMORY and value != defaults[name]}


def counted() -> dict[str, dict[str, Any]]:
    """Return what was counted last: recipe -> fingerprint, and GiB at the peak of each rehearsed stage."""
    return json.loads(MEMORY.read_text()) if MEMORY.is_file() else {}


def first_and_last(run: RunConfig) -> list[int]:
    """Return the first rank of the first and of the last pipeline stage; one, where there is no pipeline."""
    return sorted({0, first_of_stages(run, world_size(run.parallel))[-1]})


def peaks(run: RunConfig) -> list[float]:
    """Rehearse a recipe, each rank in a process of its own: GiB at each peak."""
    found = in_processes(run, ranks=first_and_last(run), num_ranks=world_size(run.parallel))
    return [round(one.peak_bytes / GIB, 2) for one in found]


def for_its_peak(run: RunConfig) -> RunConfig:
    """Return a run with the micro batches that fill the pipeline, and no more: the same peak in half the time."""
    from pretrain.rehearse.steps import steps_to_rehearse

    _, micro_batches, _ = steps_to_rehearse(run.parallel, last_batch_size(run.train))
    most = micro_batches * run.train.micro_batch_size * (run.parallel.data_parallel_size or 1)
    batch = min(last_batch_size(run.train), most)
    return replace(run, train=replace(run.train, global_batch_size=batch, batch_ramp=None, batch_stages=[]))


def count_memory(recipes: Sequence[Path] = RECIPES) -> None:
    """Rehearse each recipe whose fingerprint changed, all in this process, which is good for nothing then; write after each."""
    from pretrain.rehearse.rank import rehearse_rank

    for recipe in recipes:
        run, name, known = load_run(recipe), name_of(recipe), counted()
        if known.get(name, {}).get("of") == fingerprint(run):
            continue
        same = [one["peaks_gib"] for one in known.values() if one["of"] == fingerprint(run)]
        ranks, num_ranks = [] if same else first_and_last(run), world_size(run.parallel)
        found = [
            rehearse_rank(for_its_peak(run), rank=rank, num_ranks=num_ranks, device_type="gpu").peak_bytes
            for rank in ranks
        ]
        size = same[0] if same else [round(peak / GIB, 2) for peak in found]
        print(f"{name}: {layout(run)}: {size} GiB, {GPU_GIB - max(size):.1f} left of {GPU_GIB}", flush=True)
        known = counted() | {name: {"of": fingerprint(run), "peaks_gib": size}}
        kept = {key: known[key] for key in sorted(known) if key in {name_of(one) for one in RECIPES}}
        MEMORY.write_text(json.dumps(kept, indent=1) + "\n")


def row(recipe: Path, memory: dict[str, dict[str, Any]]) -> str:
    """Return a recipe's line of the table."""
    run = load_run(recipe)
    tokens = train_samples(run.optim, run.train) * run.data.seq_length
    full, causal = (flops_per_token(run.model, run.data.seq_length, causal=causal) * tokens for causal in (False, True))
    known = memory.get(name_of(recipe), {})
    peaks_gib = known["peaks_gib"] if known.get("of") == fingerprint(run) else []
    peak = ", ".join(f"{size:.1f}" for size in peaks_gib) or "not counted"
    left = f"{GPU_GIB - max(peaks_gib):.1f}" if peaks_gib else ""
    cells = [
        f"[{recipe.parent.name} {recipe.stem}](../{recipe.relative_to(ROOT)})",
        f"{num_parameters(run.model):,}", f"{num_parameters(run.model) - embedding_parameters(run):,}",
        f"{run.data.seq_length:,}", f"{tokens / 1e9:,.1f}", f"{full:.3g}", f"{causal:.3g}",
        layout(run), f"{world_size(run.parallel):,}", peak, left,
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def table() -> str:
    """Return the whole table as Markdown."""
    head = (
        "| recipe | parameters | without embeddings | sequence | tokens, B | FLOPs, full | FLOPs, causal half | layout | GPUs | "
        "GiB at the peak, by stage | left of 80 |"
    )
    memory = counted()
    return "\n".join(
        [head, "| :-- |" + " --: |" * 6 + " :-- | --: | --: | --: |", *(row(recipe, memory) for recipe in RECIPES)]
    )


def page_with(text: str, rows: str) -> str:
    """Return a page with the rows between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{rows}\n{END}{after}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rehearse"]:
        count_memory(
            [recipe for recipe in RECIPES if not sys.argv[2:] or any(word in str(recipe) for word in sys.argv[2:])]
        )
    PAGE.write_text(page_with(PAGE.read_text(), table()))
