"""Split what uv resolved into the lock of torch's CUDA build, that of Triton alone, and the lock of everything else."""

import re
import sys
from pathlib import Path

OF_TORCH = re.compile(r"(torch|triton|nvidia-\S+|cuda-\S+)==")
OF_KERNELS = re.compile(r"triton==")
"""The version that torch's CUDA build brings, so that `make kernels` proves our kernels with the compiler they will run with."""
NOT_NEEDED = re.compile(r"awkward(-cpp)?==")
"""gigatoken asks for awkward, for arrays of texts of different lengths that we do not ask it for (tests/unit/test_locks.py)."""


def split(resolved: Path, folder: Path) -> None:
    """Write folder/requirements.txt, folder/torch-cuda.txt and folder/kernels.txt."""
    head, *entries = re.split(r"(?m)^(?=\S+==)", resolved.read_text())
    of_torch = [entry for entry in entries if OF_TORCH.match(entry)]
    others = [entry for entry in entries if not OF_TORCH.match(entry) and not NOT_NEEDED.match(entry)]
    (folder / "requirements.txt").write_text(head + "".join(others))
    (folder / "torch-cuda.txt").write_text(head + "".join(of_torch))
    (folder / "kernels.txt").write_text(head + "".join(entry for entry in of_torch if OF_KERNELS.match(entry)))


if __name__ == "__main__":
    split(Path(sys.argv[1]), Path(sys.argv[2]))
