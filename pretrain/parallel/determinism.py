"""The same bits each time, where a run asks for it (train.deterministic).

On a CPU nothing of what trains here depends on it. On a GPU kernels may add up in the order in which their blocks come to an end;
that this makes a run the same bit for bit is read in the libraries' documentation, and no GPU has confirmed it yet. What the
libraries read from the environment: pretrain.config.library_variables.
"""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def deterministic(asked: bool) -> Iterator[None]:
    """Compute the same bits each time while the block runs, if asked, in this process.

    torch then takes the deterministic form of an operation and raises RuntimeError where there is none, and it fills memory that
    it hands out with NaN. Attention backends read the same switch (kernels.flash_packages, kernels.sdpa_cuda_attention).
    """
    if not asked:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    warns_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns_only)
