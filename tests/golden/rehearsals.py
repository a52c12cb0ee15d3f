"""What a rank does in one step, counted in rehearsals, for layouts, families of models and every shipped config.

``python -m tests.golden.rehearsals`` counts again and writes the golden files; then read the difference: a wait, a copy, a
collective or a byte more shows there. With ``--print layouts`` or ``--print shipped`` it prints what it counts, and writes nothing:
a process that has rehearsed is good for nothing else, so tests ask another one.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pretrain.config.derive import world_size
from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from pretrain.rehearse.rehearse import first_of_stages
from tests.runs.cases import DOCUMENT_LAYOUTS, FAMILY_LAYOUTS, FAMILY_RUNS, LAYOUTS, TIED, TIED_LAYOUTS
from tests.runs.context_cases import CONTEXT_LAYOUTS

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if "models" not in path.parts)
"""Shipped configs; those of configs/models have a file of their own (bench/recipes.py), which counts memory alone."""
FOLDER = Path(__file__).parent / "rehearsals"
TINY = ROOT / "configs" / "tiny.yaml"
ON_ONE_GPU = (
    "parallel.device=auto", "parallel.tensor_model_parallel_size=1", "parallel.pipeline_model_parallel_size=1",
    "parallel.sequence_parallel=false", "train.precision=bf16",
)  # fmt: skip
SHORT = ("train.global_batch_size=8",)
DOCUMENTS = ("tp2-sp", "pp4")
"""Of DOCUMENT_LAYOUTS: the others differ from LAYOUTS by the same masks."""
SHARED_SEQUENCES = ("cp2", "cp2-tp2-sp")
"""Of CONTEXT_LAYOUTS: the messages of keys and values, and those beside tensor parallelism's."""
FAMILIES = {
    "llama-3.1": "dp2", "mistral": "dp2", "qwen2": "tp2-sp", "qwen3": "tp2-sp", "smollm3": "dp2", "olmo2": "tp2-sp", "olmo3": "dp2",
    "apertus": "tp2-sp", "nemotron": "tp2-sp", "gemma": "dp2", "gemma2": "dp2", "gemma3": "tp2-sp",
}  # fmt: skip
"""One of FAMILY_LAYOUTS for each family: where its norms or activation need a collective, or else the quickest."""
SHIPPED_RANKS = {
    "1b": 8, "smoke_gpu": 1, "tiny": 4, "lucie-7b-pretrain": 512, "lucie-7b-pretrain-fast": 512, "lucie-7b-extension": 128,
    "lucie-7b-annealing": 128,
}  # fmt: skip

WIDE = (
    "parallel.tensor_model_parallel_size=4", "parallel.pipeline_model_parallel_size=2", "parallel.data_parallel_size=64",
    "parallel.sequence_parallel=true", "train.batch_ramp.start=256", "train.batch_ramp.increment=64",
)  # fmt: skip
"""The fastest layout of Lucie-7B that keeps the published ramp of the batch without sharing sequences: three kinds of groups."""

ALIKE = {"lucie-7b-annealing": "lucie-7b-extension"}
"""Shipped configs that differ from another in sources, rates and checkpoints alone, which no count depends on: not rehearsed again."""
READ_BY_NO_STEP = {
    "data": ("train",), "optim": ("lr", "min_lr", "lr_decay_style", "lr_decay_samples"), "checkpoint": ("init_from", "interval"),
}  # fmt: skip
"""Keys in which they may differ, by section; and run_dir."""


class Case(NamedTuple):
    """One rank of one run."""

    name: str
    run: RunConfig
    rank: int
    num_ranks: int


def layouts() -> Iterator[Case]:
    """The first rank of every layout, the last stage's of one with a pipeline, and a middle one where documents are kept apart."""
    named = [(layout.name, layout.overrides) for layout in LAYOUTS]
    named += [(layout.name, (*TIED, *layout.overrides)) for layout in TIED_LAYOUTS]
    named += [
        (f"documents-{layout.name}", (*SHORT, "data.document_mask=true", *layout.overrides))
        for layout in DOCUMENT_LAYOUTS
        if layout.name in DOCUMENTS
    ]
    named += [(name, CONTEXT_LAYOUTS[name]) for name in SHARED_SEQUENCES]
    named += [
        (f"{family}-{layout}", (*SHORT, *FAMILY_RUNS[family].overrides, *FAMILY_LAYOUTS[layout]))
        for family, layout in FAMILIES.items()
    ]
    for name, overrides in named:
        run = load_run(TINY, [*ON_ONE_GPU, *overrides])
        num_ranks = world_size(run.parallel)
        ranks = first_of_stages(run, num_ranks)
        for rank in {0, ranks[-1]} if len(ranks) == 2 else set(ranks[:2]):
            yield Case(f"{name} rank {rank} of {num_ranks}", run, rank, num_ranks)


def shipped_runs() -> dict[str, RunConfig]:
    """Every shipped config, by its path with dashes."""
    return {
        "-".join(config.relative_to(ROOT / "configs").with_suffix("").parts): load_run(config) for config in CONFIGS
    }


def what_a_step_reads(run: RunConfig) -> RunConfig:
    """A run with the keys that no step reads as they are by default."""
    sections = {
        name: replace(section, **{key: getattr(type(section)(), key) for key in READ_BY_NO_STEP[name]})
        for name, section in ((name, getattr(run, name)) for name in READ_BY_NO_STEP)
    }
    return replace(run, run_dir="", **sections)


def shipped() -> Iterator[Case]:
    """The first and the last pipeline stage of every shipped config but those ALIKE another, and one in a WIDE layout."""
    for name, run in shipped_runs().items():
        if name in ALIKE:
            continue
        ranks = first_of_stages(run, SHIPPED_RANKS[name])
        for rank in sorted({ranks[0], ranks[-1]}):
            yield Case(f"{name} rank {rank} of {SHIPPED_RANKS[name]}", run, rank, SHIPPED_RANKS[name])
    fast = ROOT / "configs" / "lucie-7b" / "pretrain-fast.yaml"
    yield Case("lucie-7b-pretrain-fast, TP4 x PP2, rank 0 of 512", load_run(fast, WIDE), 0, 512)
    chunked = load_run(fast, [*WIDE, "train.loss_chunk_tokens=1024"])
    yield Case("lucie-7b-pretrain-fast, TP4 x PP2, loss in chunks, rank 256 of 512", chunked, 256, 512)


SETS = {"layouts": layouts, "shipped": shipped}


def golden_path(which: str) -> Path:
    """The golden file of a set of cases."""
    return FOLDER / f"{which}.json"


def count(which: str) -> dict[str, Any]:
    """Count in a process of its own: case -> what ``_counted`` gives."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": str(ROOT)}
    environment["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # it warns that groups which are closed have no backend
    command = [sys.executable, "-m", "tests.golden.rehearsals", "--print", which]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _counted(case: Case) -> dict[str, Any]:
    """Rehearse a case: bytes, and what a step does. Lines of files are left out: they move with every change above them."""
    from pretrain.rehearse.rank import rehearse_rank

    device_type = "cpu" if case.run.parallel.device == "cpu" else "gpu"
    found = rehearse_rank(case.run, rank=case.rank, num_ranks=case.num_ranks, device_type=device_type)
    waits: dict[str, int] = {}
    for wait in found.step.waits:
        place = _without_line(wait.place)
        waits[f"{wait.reason}: {place}"] = waits.get(f"{wait.reason}: {place}", 0) + wait.count
    copies: dict[str, dict[str, int]] = {}
    for copy in found.step.copies:
        at = copies.setdefault(f"{copy.way}: {_without_line(copy.place)}", {"count": 0, "bytes": 0})
        at["count"] += copy.count
        at["bytes"] += copy.num_bytes
    traffic = {
        f"{one.group} of {one.ranks}: {one.operation}": {"calls": one.calls, "bytes": one.num_bytes}
        for one in found.step.traffic
    }
    memory = {
        "model": found.model_bytes,
        "with optimizer": found.with_optimizer_bytes,
        "after a step": found.after_step_bytes,
        "peak": found.peak_bytes,
    }
    return {"memory": memory, "collectives": traffic, "waits": waits, "copies": copies, "flops": found.step.flops}


def _without_line(place: str) -> str:
    file, _, rest = place.partition(":")
    return f"{file} {rest.partition(' ')[2]}" if rest else place


def regenerate() -> None:
    """Write the golden files."""
    FOLDER.mkdir(exist_ok=True)
    for which in SETS:
        golden_path(which).write_text(json.dumps(count(which), indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--print"]:
        print(json.dumps({case.name: _counted(case) for case in SETS[sys.argv[2]]()}))
    else:
        regenerate()
