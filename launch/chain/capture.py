"""Record of what a job ran with: versions, code, GPUs, variables. Written once for each start, for later questions."""

import importlib.metadata
import json
import os
import platform
import re
import socket
import subprocess
import sys
from pathlib import Path

from fanal.credentials import names_a_secret, without_credentials
from fanal.files import write_whole

PACKAGES = (
    "torch",
    "megatron-core",
    "triton",
    "flash-attn",
    "numpy",
    "transformers",
    "safetensors",
    "sentencepiece",
    "gigatoken",
)
EXPLAINS = re.compile(
    r"(NCCL|RCCL|CUDA|CUBLAS|CUDNN|HIP|HSA|ROCR|MIOPEN|AITER|MPICH|GLOO|UCX|FI|NVTE|NVSHMEM|TORCH|TORCHINDUCTOR|PYTORCH|TRITON|OMP|KMP|MKL)_[A-Z0-9_]+|"
    r"SLURM_(?!\w*(COMMENT|EXTRA|EXPORT))(JOB|STEP|ARRAY|GPUS?|CPUS?|MEM|NTASKS|NPROCS|NNODES|NODE|TASKS?|DISTRIBUTION|HINT|CLUSTER|RESTART|TOPOLOGY|SUBMIT|"
    r"THREADS|TRES)(_[A-Z_]+)?|SLURM_(PROCID|LOCALID|NODEID|NODELIST)|SLURMD_NODENAME|"
    r"FANAL_(CONFIG|LOGS|RANKS_PER_NODE|NUMA_BINDING|CORES_OF_RANKS|PER_RANK|IMAGE|IMAGE_PYTHON|PACKED|NODE_LOCAL|ATTEMPT|MEET_AT|RESTARTS_INSIDE|SPARE_NODES)|PRETRAIN_(EXIT_CODES|REQUESTS_SINCE_S)|"
    r"PYTHON|PYTHON(PATH|SAFEPATH|HASHSEED|NOUSERSITE|WARNINGS)|LD_(LIBRARY_PATH|PRELOAD)|LOADEDMODULES|"
    r"(HF_HUB|HF_DATASETS|TRANSFORMERS)_OFFLINE|HF_HOME"
)
"""Variables that explain how a run went: of libraries that compute and communicate, of the job, of Python. All others, the
secrets of a user among them, are counted and not even named. Slurm's EXPORT_ENV has values of variables in it."""


def write_environment(path: Path, code_dir: Path, nodes: tuple[str, ...]) -> None:
    """Write the environment as one JSON file. What a machine does not have is null; what looks like credentials is taken out."""
    shown = {name: without_credentials(value) for name, value in sorted(os.environ.items()) if explains(name)}
    content = {
        "host": socket.gethostname(),
        "nodes": list(nodes),
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "packages": {name: _version(name) for name in PACKAGES},
        "code": {
            "folder": str(code_dir),
            "commit": _said("git", "-C", str(code_dir), "rev-parse", "HEAD"),
            "changes": _said("git", "-C", str(code_dir), "status", "--porcelain", "--untracked-files=no"),
        },
        "gpus": _said("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
        or _said("rocm-smi", "--showproductname", "--showdriverversion", "--csv"),
        "cpu": _cpu(),
        "variables": shown,
        "num_variables_left_out": len(os.environ) - len(shown),
    }
    write_whole(path, json.dumps(content, indent=2) + "\n")


def explains(name: str) -> bool:
    """Whether a variable is one of those that are recorded."""
    return EXPLAINS.fullmatch(name) is not None and not names_a_secret(name)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _said(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu() -> str | None:
    try:
        match = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return match.group(1) if match else None
