"""AdamW in one pass, by its definition where its kernel would need a GPU. Called in every rank before the run starts."""

import os
from typing import Any

import torch


def adamw_in_one_pass() -> None:
    """Every rank takes the path of the kernel."""
    from fanal.kernels import reference
    from fanal.kernels.choice import Choice
    from pretrain.optim import fused_adamw

    fused_adamw.choose_with_trial = lambda *_, **__: Choice("triton", "a test")
    fused_adamw._triton = lambda: reference.adamw


def adamw_in_one_pass_and_copies_lost() -> None:
    """The same, and the last rank never writes the parameters of its part of the masters."""
    from pretrain.optim.fused_adamw import FusedAdamW

    adamw_in_one_pass()
    if int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1:

        def nowhere(self: Any, copies: dict[torch.Tensor, torch.Tensor]) -> None:
            self._copies = {}

        FusedAdamW.write_copies = nowhere  # type: ignore[method-assign]
