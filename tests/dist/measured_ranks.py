"""The memory that real ranks on a CPU take in a step: ``python -m tests.dist.measured_ranks FOLDER CONFIG OVERRIDES...``

glibc must give freed memory back at once (MALLOC in the environment), or its habits are measured.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from pretrain.config.derive import num_microbatches, world_size
from pretrain.config.load import load_run
from pretrain.config.schema import RunConfig
from pretrain.model.gpt import build_model
from pretrain.optim.optimizer import build_optimizer, set_learning_rate
from pretrain.parallel.local import run_local_ranks
from pretrain.parallel.world import open_world
from pretrain.rehearse.batches import micro_batches
from pretrain.state import TrainState
from pretrain.train.step import train_step

ROOT = Path(__file__).parents[2]
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def measured(folder: Path, config: Path, *overrides: str) -> list[int]:
    """The bytes that each rank takes at the peak of its second step, above what it had before the model was built.

    Pages of files are left out: they are the libraries', which all processes share, and come when their code first runs.
    """
    environment = {**os.environ, **MALLOC, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "tests.dist.measured_ranks", str(folder), str(config), *overrides]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(path.read_text()) for path in sorted(folder.glob("rank-*.json"))]


def rank_main(run: RunConfig, folder: str) -> int:
    """One rank: two steps, and the peak of the second into a file."""
    torch.set_num_threads(1)
    with open_world(run.parallel, seed=run.train.seed) as world:
        warm_up(run)
        before = status_bytes("VmRSS") - file_bytes()
        model = build_model(run, world)
        optimizer = build_optimizer(run, model)
        count = num_microbatches(
            global_batch_size=run.train.global_batch_size,
            micro_batch_size=run.train.micro_batch_size,
            data_parallel_size=world.data_parallel_size,
        )
        for _ in range(2):
            Path("/proc/self/clear_refs").write_text("5")  # the peak is what it is now
            set_learning_rate(optimizer, run.optim.lr)
            batches = micro_batches(run, world, count)
            train_step(
                model, optimizer, batches, run, world,
                state=TrainState(), global_batch_size=run.train.global_batch_size, domains=["all"],
            )  # fmt: skip
        peak = status_bytes("VmHWM") - file_bytes() - before
        Path(folder, f"rank-{world.rank:05d}.json").write_text(json.dumps(peak))
    return 0


def warm_up(run: RunConfig) -> None:
    """Let the libraries take what they keep: of a product in the run's precision, and of a collective."""
    dtype = torch.bfloat16 if run.train.precision == "bf16" else torch.float32
    square = torch.randn(256, 256, dtype=dtype, requires_grad=True)
    (square @ square).sum().backward()
    dist.all_reduce(torch.zeros(1))


def status_bytes(name: str) -> int:
    """A figure of /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def file_bytes() -> int:
    """The pages of files that this process has mapped and used. They stay, so that those at the peak are those at the end."""
    return status_bytes("RssFile")


def main(folder: str, config: str, *overrides: str) -> int:
    """Start the ranks that the layout needs."""
    run = load_run(config, overrides)
    code, failure = run_local_ranks(
        rank_main, run, folder,
        preload=["tests.dist.measured_ranks"], num_ranks=world_size(run.parallel), device_type="cpu", log_dir=Path(folder),
    )  # fmt: skip
    if failure is not None:
        print(failure.text, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
