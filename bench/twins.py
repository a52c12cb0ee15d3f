"""The small twin of every recipe: five steps in TP2 x PP2 on four CPU ranks, an export, its certificate (``make recipes``).

A phase begins with the twin of the phase before it, and reads the same 40 samples again: its losses in training may be far lower.
The text is the tests' small corpus, and so are the 2,000 tokens of the vocabulary; sequences have 64 tokens, windows 16, so that
they hide something.
"""

import datetime
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.recipes import RECIPES, name_of
from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from pretrain.model.families import family_of
from pretrain.model.families.sizes import num_parameters
from pretrain.parallel.local import run_local_ranks
from tests.dist.export_faults import Case, run_exports
from tests.dist.harness import Trace, run_and_trace, start_fork_server
from tests.runs.small import make_small_data

SCALE = "1/4096"
STEPS = 5
WARM_UP_SAMPLES = 16
"""Or the whole schedule, where the scaled one is shorter."""
RESULTS = Path(__file__).parent / "results" / "recipes.md"


@dataclass(frozen=True)
class Twin:
    """What became of a recipe's twin."""

    recipe: str
    architecture: str
    num_parameters: int
    losses: list[float]
    validation: list[float]
    """Before the first step and after the last."""
    exported: bool
    said: str
    """What the export said, its certificate's figures among it."""


def twin_of(recipe: Path, folder: Path, data: Path) -> RunConfig:
    """Return the twin of a recipe, on the small text in ``data``; its run folder, and those it begins with, lie in ``folder``."""
    published = load_run(recipe)
    schedule = load_run(recipe, [], SCALE).optim.lr_decay_samples
    warm_up = WARM_UP_SAMPLES if schedule is None else min(WARM_UP_SAMPLES, schedule)
    sources = [{"prefix": f"{data}/shards/train-{domain}"} for domain in ("code", "prose")]
    changes = [
        f"run_dir={folder / name_of(recipe)}",
        f"data.tokenizer={data}/tokenizer", f"data.train={json.dumps(sources)}", "data.phases=[]", "data.seq_length=64",
        f"data.validation={json.dumps([{'prefix': f'{data}/shards/validation-code'}])}", "model.vocab_size=2000",
        "parallel.tensor_model_parallel_size=2", "parallel.pipeline_model_parallel_size=2", "parallel.sequence_parallel=true",
        "parallel.device=cpu", "parallel.timeout_s=60", f"train.train_steps={STEPS}", "train.global_batch_size=8",
        "train.micro_batch_size=2", "train.batch_ramp=null", "train.precision=fp32", "train.loss_chunk_tokens=0",
        "train.validation_samples=2", "log.interval=1", "log.tensorboard=false", f"optim.lr_warmup_samples={warm_up}",
    ]  # fmt: skip
    if published.model.sliding_window is not None:
        changes.append("model.sliding_window=16")
    if published.checkpoint.init_from is not None:
        before = Path(published.checkpoint.init_from).relative_to("runs")
        changes.append(f"checkpoint.init_from={folder / '-'.join(before.parts)}")
    return load_run(recipe, changes, SCALE)


def train_and_export(recipes: Sequence[Path], folder: Path, data: Path) -> list[Twin]:
    """Train the twins of recipes, each phase after the one that it begins with, and export all in one process."""
    runs = {recipe: twin_of(recipe, folder, data) for recipe in in_order(recipes)}
    traces = {recipe: run_and_trace(run) for recipe, run in runs.items()}
    for recipe, trace in traces.items():
        assert trace.exit_code == 0, f"{name_of(recipe)}: {trace.failure}"
    cases = [Case(name_of(recipe), run.run_dir, f"{run.run_dir}-export") for recipe, run in runs.items()]
    code, failure = run_local_ranks(
        run_exports, cases, str(folder / "exports.json"),
        preload=["pretrain.train.loop"], num_ranks=1, device_type="cpu", log_dir=folder / "logs",
    )  # fmt: skip
    assert code == 0, failure
    found = json.loads((folder / "exports.json").read_text())
    return [_twin(recipe, run, traces[recipe], found[name_of(recipe)]) for recipe, run in runs.items()]


def in_order(recipes: Sequence[Path]) -> list[Path]:
    """Return recipes, each after the one whose run it begins with."""
    before = {recipe: load_run(recipe).checkpoint.init_from for recipe in recipes}
    folders = {load_run(recipe).run_dir: recipe for recipe in recipes}

    def depth(recipe: Path) -> int:
        first = before[recipe]
        return 1 + depth(folders[first]) if first is not None else 0

    return sorted(recipes, key=lambda recipe: (depth(recipe), recipe))


def _twin(recipe: Path, run: RunConfig, trace: Trace, export: dict[str, str | int | bool]) -> Twin:
    losses = [loss for loss in trace.losses.values() if loss is not None]
    return Twin(
        recipe=name_of(recipe),
        architecture=family_of(run.model).architecture,
        num_parameters=num_parameters(run.model),
        losses=losses,
        validation=[trace.validation[step]["code"] for step in (0, STEPS)],
        exported=export["code"] == 0 and bool(export["is_there"]),
        said=str(export["text"]),
    )


def table(rows: dict[str, str]) -> str:
    """Return the results as Markdown, sorted by recipe."""
    head = f"| recipe | class | parameters of the twin | loss, step 1 | loss, step {STEPS} | export |\n"
    return head + "| :-- | :-- | --: | --: | --: | :-- |\n" + "".join(f"{rows[name]}\n" for name in sorted(rows))


def row(twin: Twin) -> str:
    """Return the line of a twin."""
    return (
        f"| {twin.recipe} | {twin.architecture} | {twin.num_parameters:,} | {twin.losses[0]:.3f} | {twin.losses[-1]:.3f} | "
        f"{'certified' if twin.exported else 'refused'} |"
    )


def known_rows() -> dict[str, str]:
    """Return the lines that are in the results, of recipes that still are there."""
    text = RESULTS.read_text() if RESULTS.is_file() else ""
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if "ForCausalLM |" in line}
    return {name: line for name, line in lines.items() if name in {name_of(recipe) for recipe in RECIPES}}


def main(words: Sequence[str]) -> int:
    """Train the twins of all models, or of those with a word in their names; write bench/results/recipes.md after each."""
    start_fork_server()
    models = sorted({recipe.parent.name for recipe in RECIPES})
    refused = []
    for model in [model for model in models if not words or any(word in model for word in words)]:
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "data"
            make_small_data(data)
            recipes = [recipe for recipe in RECIPES if recipe.parent.name == model]
            twins = train_and_export(recipes, Path(folder) / "runs", data)
        refused += [f"{twin.recipe}: {twin.said}" for twin in twins if not twin.exported]
        rows = known_rows() | {twin.recipe: row(twin) for twin in twins}
        today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
        RESULTS.write_text(f"## Small twins of the recipes\n\n{today}; scale {SCALE}. {__doc__}\n{table(rows)}")
    print(*refused or ["all twins are certified"], sep="\n")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
