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
SHOWN = re.compile(
    r"(SLURM|NCCL|CUDA|TORCH|PYTORCH|OMP|GLOO|HF|TRANSFORMERS|TRITON|PYTHON|FANAL|PRETRAIN|UCX|FI)_.*|PYTHON|PYTHONPATH|LD_LIBRARY_PATH|LOADEDMODULES"
)
SECRET = re.compile(r"token|secret|password|passwd|credential|api_?key|jwt", re.IGNORECASE)


def write_environment(path: Path, code_dir: Path, nodes: tuple[str, ...]) -> None:
    """Write the environment as one JSON file. What a machine does not have is null."""
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
        "gpus": _said("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"),
        "cpu": _cpu(),
        "variables": {
            name: value
            for name, value in sorted(os.environ.items())
            if SHOWN.fullmatch(name) and not SECRET.search(name)
        },
    }
    write_whole(path, json.dumps(content, indent=2) + "\n")


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
