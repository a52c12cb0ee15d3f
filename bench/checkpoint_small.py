"""Saves of a tiny model, where nothing but what every save costs is left: on one rank and on four.

    python -m bench.checkpoint_small [--folder DIR] [--rounds N]

Results are added to bench/results/checkpoint.md.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from bench.checkpoint_big import RESULTS
from bench.compare import Timing, append_result, table
from bench.data_corpus import make_shard, make_tokenizer
from pretrain.checkpoint.saving.save import open_saver
from pretrain.config.derive import world_size
from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from pretrain.data.reader import open_reader
from pretrain.data.sources import open_sources
from pretrain.model.families.sizes import num_parameters
from pretrain.model.gpt import build_model
from pretrain.optim.optimizer import build_optimizer
from pretrain.parallel.local import run_local_ranks
from pretrain.parallel.world import open_world
from pretrain.state import TrainState

RUN = """
run_dir: {folder}/run
model:
  {{num_layers: 4, hidden_size: 64, ffn_hidden_size: 176, num_attention_heads: 8, num_query_groups: 4, vocab_size: 2000}}
data: {{tokenizer: {folder}/tokenizer, seq_length: 64, train: [{{prefix: {folder}/source, weight: 1}}]}}
optim: {{lr: 1.0e-4}}
train: {{train_steps: 1_000_000, global_batch_size: 1, micro_batch_size: 1, precision: fp32}}
parallel: {{device: cpu}}
checkpoint: {{max_failed_saves: 0}}
"""
LAYOUTS = {
    "1 rank": [],
    "4 ranks, TP2 x PP2": ["parallel.tensor_model_parallel_size=2", "parallel.pipeline_model_parallel_size=2"],
}


def rank_main(run: RunConfig, rounds: int, answer: Path) -> int:
    """Save again and again; rank 0 writes (stall, until all ranks know that it is complete) of each save down."""
    torch.set_num_threads(1)
    found = []
    with open_world(run.parallel, seed=1) as world, open_reader(open_sources(run), run, world) as reader:
        model = build_model(run, world)
        optimizer = build_optimizer(run, model)
        with open_saver(run, model, optimizer, world) as saver:
            for step in range(1, rounds + 2):
                position = reader.position(0)
                started = time.perf_counter()
                saver.begin(TrainState(step=step), position)
                stall_s = time.perf_counter() - started
                saver.settle()
                found.append((stall_s, time.perf_counter() - started))
        if world.rank == 0:
            answer.write_text(json.dumps(found[1:]))  # the first one also waits for the writer process to start
    return 0


def compare_layouts(folder: Path, rounds: int) -> None:
    make_tokenizer(folder)
    make_shard(folder, "source", num_tokens=200_000, document_tokens=600, seed=1)
    path, answer = folder / "run.yaml", folder / "answer.json"
    path.write_text(RUN.format(folder=folder))
    rows, parameters = [], 0
    for number, (name, overrides) in enumerate(LAYOUTS.items()):
        run = load_run(path, [*overrides, f"run_dir={folder / f'run-{number}'}"])
        parameters = num_parameters(run.model)
        Path(run.run_dir).mkdir()
        code, failure = run_local_ranks(
            rank_main, run, rounds, answer,
            preload=["bench.checkpoint_small"], num_ranks=world_size(run.parallel), device_type="cpu",
            log_dir=folder / "logs",
        )  # fmt: skip
        if code:
            raise SystemExit(f"{name}: {failure}")
        for what, seconds in zip(("stall", "complete"), zip(*json.loads(answer.read_text()), strict=True), strict=True):
            timing = Timing(rounds_s=tuple(seconds))
            rows.append([f"{name}, {what}", f"{timing.median_s:.3f}", "{:.3f} to {:.3f}".format(*timing.range_s)])
    append_result(
        RESULTS,
        f"Saves of a model of {parameters:,} parameters",
        f"{parameters * 12:,} bytes; until every rank knows that the checkpoint is complete, on the disk and under its name; one "
        "torch thread per rank.\n\n" + table(["", "s, median", f"range of {rounds}"], rows),
    )


def main() -> None:
    """Make the shard in the folder, then measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a folder on the disk to save to; a temporary one if left out")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        compare_layouts(Path(temporary), options.rounds)


if __name__ == "__main__":
    main()
