"""How v3/starts/ was made, by the code of the commit that its files name: ``python -m tests.golden.formats.make_starts FOLDER``, with
nothing there.

A run on the shards of v2/llama that was killed in step 9, and went on from step 6 on two replicas with another batch; of its folder
the files of its starts and its logs. All paths are relative, and the names of node and job are made up. Made twice, only times,
speed, memory, hashes and versions differ.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from fanal.run_folder import METRICS_FILE, SPIKES_FILE, STARTS_DIR
from pretrain.config.load import load_run
from tests.dist.harness import run_and_trace
from tests.golden.formats.kept import LLAMA, ONE_RANK

OVERRIDES = (
    *ONE_RANK, "run_dir=run", "train.train_steps=10", "train.validation_interval=4", "checkpoint.interval=3",
    "train.spikes={z_score: 0.001, window_steps: 2, min_steps: 2}",
)  # fmt: skip


def main(folder: Path) -> None:
    """All of v3/starts/, and nothing else."""
    os.environ |= {"SLURMD_NODENAME": "n1", "SLURM_JOB_ID": "77"}
    with tempfile.TemporaryDirectory() as place:
        for name in ("tokenizer", "shards", "run.yaml"):
            source = LLAMA.folder / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, Path(place) / name)
        os.chdir(place)
        killed = run_and_trace(load_run("run.yaml", OVERRIDES), "killed_at_step_9")
        assert max(killed.losses) == 8, killed.failure
        replicas = ("parallel.data_parallel_size=2", "train.global_batch_size=16")
        resumed = run_and_trace(load_run("run.yaml", [*OVERRIDES, *replicas]), fresh=False)
        assert resumed.exit_code == 0, resumed.failure
        folder.mkdir(parents=True)
        for name in (STARTS_DIR, METRICS_FILE, SPIKES_FILE):
            shutil.move(Path("run") / name, folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
