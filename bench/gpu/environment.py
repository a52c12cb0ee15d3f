"""What the machine has: GPUs, driver, versions, and which of our packages are missing."""

import os
import platform
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

from bench.gpu.found import Findings, findings_here
from bench.gpu.setting import here

TORCH_FROM, TORCH_BELOW = (2, 11), (2, 15)
"""As pyproject.toml has it."""
PACKAGES = (
    "torch",
    "triton",
    "megatron-core",
    "transformers",
    "flash-attn-4",
    "flash-attn-3",
    "flash-attn",
    "numpy",
    "omegaconf",
    "blake3",
)
GIB = 2**30


def main() -> int:
    findings = findings_here()
    findings.note(f"Python {platform.python_version()}, {platform.platform()}, {os.cpu_count()} CPU cores")
    for package in PACKAGES:
        findings.row("packages", {"package": package, "version": installed(package) or "not here"})
    torch_version = installed("torch")
    if torch_version is None:
        findings.fault(f"torch is not installed for {sys.executable}")
        return findings.exit_code()
    numbers = tuple(map(int, re.findall(r"\d+", torch_version)[:2]))
    if not TORCH_FROM <= numbers < TORCH_BELOW:
        findings.fault(f"torch {torch_version} is not supported; from 2.11 to 2.14 it is")
    describe_gpus(findings)
    return findings.exit_code()


def installed(package: str) -> str | None:
    """Return the version of a package; None if it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def describe_gpus(findings: Findings) -> None:
    """Name each GPU, compute on it, and show what nvidia-smi knows of clocks and power."""
    import torch

    findings.note(f"torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")
    device = here().device
    for index in range(torch.cuda.device_count() if device == "cuda" else 0):
        gpu = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        findings.row(
            "GPUs",
            {
                "GPU": index, "name": gpu.name, "compute capability": f"{gpu.major}.{gpu.minor}",
                "multiprocessors": gpu.multi_processor_count, "memory, GiB": f"{total / GIB:.1f}", "free, GiB": f"{free / GIB:.1f}",
            },
        )  # fmt: skip
    ones = torch.ones(64, 64, device=device)
    if float((ones @ ones).sum()) != 64**3:
        findings.fault(f"a product of ones is wrong on {device}")
    if device == "cuda" and shutil.which("nvidia-smi") is not None:
        what = "driver_version,clocks.max.sm,clocks.max.mem,power.limit,utilization.gpu,memory.used"
        ask = ["nvidia-smi", f"--query-gpu={what}", "--format=csv"]
        done = subprocess.run(ask, capture_output=True, text=True, timeout=20, check=False)
        for line in done.stdout.splitlines():
            findings.note(f"nvidia-smi: {line}")


if __name__ == "__main__":
    sys.exit(main())
