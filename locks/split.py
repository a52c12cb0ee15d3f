"""Split what uv resolved into the locks of torch's CUDA build, of Triton alone, of flash-attn 4, and of everything else."""

import re
import sys
from pathlib import Path

OF_TORCH = re.compile(r"(torch|triton|nvidia-\S+|cuda-\S+)==")
OF_KERNELS = re.compile(r"triton==")
"""The version that torch's CUDA build brings, so that `make kernels` proves our kernels with the compiler they will run with."""
OF_FLASH4 = re.compile(
    r"(flash-attn-4|nvidia-cutlass-dsl(-libs-\w+)?|quack-kernels|apache-tvm-ffi|torch-c-dlpack-ext|einops|cuda-bindings|cuda-pathfinder)=="
)
"""flash-attn 4 and what it needs besides torch, Triton and what the trainer has (`make kernels-weekly`)."""
OF_BOTH = re.compile(r"cuda-(bindings|pathfinder)==")
NOT_NEEDED = re.compile(r"awkward(-cpp)?==")
"""gigatoken asks for awkward, for arrays of texts of different lengths that we do not ask it for (tests/unit/test_locks.py)."""


def split(resolved: Path, folder: Path) -> None:
    """Write requirements.txt, torch-cuda.txt, kernels.txt and flash4.txt into a folder."""
    head, *entries = re.split(r"(?m)^(?=\S+==)", resolved.read_text())
    of_flash4 = [entry for entry in entries if OF_FLASH4.match(entry)]
    entries = [entry for entry in entries if OF_BOTH.match(entry) or not OF_FLASH4.match(entry)]
    of_torch = [entry for entry in entries if OF_TORCH.match(entry)]
    others = [entry for entry in entries if not OF_TORCH.match(entry) and not NOT_NEEDED.match(entry)]
    (folder / "requirements.txt").write_text(head + "".join(others))
    (folder / "torch-cuda.txt").write_text(head + "".join(of_torch))
    (folder / "kernels.txt").write_text(head + "".join(entry for entry in of_torch if OF_KERNELS.match(entry)))
    (folder / "flash4.txt").write_text(head + "".join(of_flash4))


if __name__ == "__main__":
    split(Path(sys.argv[1]), Path(sys.argv[2]))
