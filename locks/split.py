"""Split what uv resolved into the lock of torch's CUDA build and the lock of everything else."""

import re
import sys
from pathlib import Path

OF_TORCH = re.compile(r"(torch|triton|nvidia-\S+|cuda-\S+)==")
NOT_NEEDED = re.compile(r"awkward(-cpp)?==")
"""gigatoken asks for awkward, for arrays of texts of different lengths that we do not ask it for (tests/unit/test_locks.py)."""


def split(resolved: Path, folder: Path) -> None:
    """Write folder/requirements.txt and folder/torch-cuda.txt."""
    head, *entries = re.split(r"(?m)^(?=\S+==)", resolved.read_text())
    of_torch = [entry for entry in entries if OF_TORCH.match(entry)]
    others = [entry for entry in entries if not OF_TORCH.match(entry) and not NOT_NEEDED.match(entry)]
    (folder / "requirements.txt").write_text(head + "".join(others))
    (folder / "torch-cuda.txt").write_text(head + "".join(of_torch))


if __name__ == "__main__":
    split(Path(sys.argv[1]), Path(sys.argv[2]))
