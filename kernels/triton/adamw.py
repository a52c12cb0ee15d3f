"""AdamW over a flat shard, through Triton. Kernel: device/adamw.py. Not yet run on a GPU.

One pass over main weights, moments and gradient, and the narrow copy written in it: 30 bytes a weight. torch's foreach form makes
about ten passes, and a temporary of the shard's size. The clip factor stays on the device.
"""

import math

import torch
from torch import Tensor

from fanal.kernels.triton import launch
from fanal.kernels.triton.rows import DTYPES, parts

BLOCK = 1024


@torch.no_grad()
def adamw_step(
    main: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    gradient: Tensor,
    *,
    learning_rate: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    update: int,
    clip: Tensor | None = None,
    copy: Tensor | None = None,
) -> None:
    """Make one update in place: main, exp_avg and exp_avg_sq, and the copy of main in its narrower dtype. No host sync.

    Args: main, exp_avg, exp_avg_sq [n], fp32, each in one piece; gradient [n], fp32 or narrower; update, which one this is,
        from 1 on; clip, one number of fp32 on the device, by which the gradient is multiplied, None for one; copy [n], what
        receives main rounded, None for no copy.
    Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019 (arXiv:1711.05101).
    """
    tensors = [main, exp_avg, exp_avg_sq, gradient, *([] if copy is None else [copy])]
    assert all(tensor.shape == (main.numel(),) and tensor.is_contiguous() for tensor in tensors), (
        f"a shard is flat and in one piece: {[tuple(tensor.shape) for tensor in tensors]}"
    )
    assert all(tensor.dtype == torch.float32 for tensor in tensors[:3]), "main weights and moments are fp32"
    assert all(tensor.dtype in DTYPES for tensor in tensors[3:]), f"{[tensor.dtype for tensor in tensors]}"
    assert clip is None or (clip.dtype == torch.float32 and clip.numel() == 1), "clip must be one number of fp32"
    assert update >= 1, f"update ({update}) counts from 1"
    beta1, beta2 = betas
    launch.start(
        "adamw.step",
        (parts(main.numel(), BLOCK),),
        *(main, exp_avg, exp_avg_sq, gradient, copy, clip, main.numel()),
        # In Python's double precision, rounded to fp32 once.
        *(1 - learning_rate * weight_decay, 1 - beta1, beta2, 1 - beta2, learning_rate / (1 - beta1**update)),
        *(math.sqrt(1 - beta2**update), eps),
        CLIP=clip is not None,
        COPY=copy is not None,
        BLOCK=BLOCK,
    )
    torch.autograd.graph.increment_version(
        [tensor for tensor in (main, exp_avg, exp_avg_sq, copy) if tensor is not None]
    )
