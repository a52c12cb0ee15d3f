"""The two passes of a cross entropy over the logits of a rank, through Triton. Definition: kernels.reference; kernels:
device/cross_entropy.py.

What is held, combined over ranks and returned is as in kernels/cross_entropy.py, which takes these passes. Not yet run on a GPU.
"""

import torch
from torch import Tensor

from fanal.kernels.cross_entropy import Columns, Passes
from fanal.kernels.triton import launch
from fanal.kernels.triton.rows import DTYPES, parts

FORWARD_LANES, BACKWARD_BLOCK = 512, 2048
"""Lanes of eight columns, two lanes a thread; and columns, eight a thread."""


def statistics(rows: Tensor, labels: Tensor, columns: Columns) -> Tensor:
    """Return what this rank's columns say of each row: the largest logit, the sum of exp(logit - largest), the label's logit.

    Args: rows [rows, v/t]; labels [rows], int64.
    Returns: [3, rows], fp32; -inf, 0 and 0 where nothing counts.
    """
    assert rows.dtype in DTYPES, f"{rows.dtype} is not one of {', '.join(map(str, DTYPES))}"
    assert labels.dtype == torch.int64, f"labels are {labels.dtype}, not torch.int64"
    found = torch.empty((3, len(rows)), dtype=torch.float32, device=rows.device)
    largest, total, chosen = found
    launch.start(
        "cross_entropy.forward",
        (len(rows),),
        *(rows, labels, largest, total, chosen),
        *(rows.stride(0), columns.first, columns.count, float(columns.soft_cap or 0)),
        num_warps=8,
        CAP=columns.soft_cap is not None,
        LANES=FORWARD_LANES,
    )
    return found


def over_logits(
    rows: Tensor, labels: Tensor, log_sum_exp: Tensor, for_loss: Tensor, for_log_sum_exp: Tensor, columns: Columns
) -> None:
    """Write the gradient of the logits over them. rows [rows, v/t], the others [rows]; no collective."""
    launch.start(
        "cross_entropy.backward",
        (len(rows), parts(rows.shape[1], BACKWARD_BLOCK)),
        *(rows, labels, log_sum_exp, for_loss.contiguous(), for_log_sum_exp.contiguous()),
        *(rows.stride(0), columns.first, columns.count, rows.shape[1], float(columns.soft_cap or 0)),
        num_warps=8,
        CAP=columns.soft_cap is not None,
        BLOCK=BACKWARD_BLOCK,
    )
    torch.autograd.graph.increment_version(rows)  # whoever else kept the logits is refused a backward


TRITON = Passes(statistics, over_logits)
