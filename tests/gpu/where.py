"""Where the tests of this folder run: on GPUs, or, so that all of a test but the GPU can be tried, on a CPU.

FANAL_GPU_DEVICE=cpu says the latter, as to the stages of bench.gpu; ranks then talk over gloo.
"""

import shutil
from pathlib import Path

import pytest
import torch

from bench.gpu.setting import DeviceType, here
from pretrain.config.derive import world_size
from pretrain.parallel.local import run_local_ranks
from tests.dist.harness import Trace, make_run, rank_main, read_trace

DEVICE = here().device


def needs_gpus(number: int) -> pytest.MarkDecorator:
    """Skip where there are fewer GPUs."""
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return pytest.mark.skipif(DEVICE == "cuda" and found < number, reason=f"needs {number} CUDA GPUs, {found} here")


def train_here(
    config: Path,
    folder: Path,
    *overrides: str,
    fresh: bool = True,
    fault: str | None = None,
    device: DeviceType = DEVICE,
) -> Trace:
    """Train a run on as many local ranks as it needs, a GPU each; from scratch unless told to resume.

    Args: fault: the name of one to plant, of tests/dist/faults.py.
    """
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    run = make_run(config, folder, f"parallel.device={device}", *overrides)
    code, failure = run_local_ranks(
        rank_main, run, fault, num_ranks=world_size(run.parallel), device_type=device, log_dir=folder / "logs"
    )
    return read_trace(folder, code, failure)
