"""One trial of a backend of attention on the device where it is to run, against the definition, before anything is trained on it.

A kernel that is installed may still not run: it was built for another GPU, another driver or another torch, or it compiles on the
first call and fails. And a kernel that runs may be wrong. Both show here, in the seconds before the first step.
"""

from itertools import product

import torch
from torch import Tensor

from fanal.kernels.attention_backend import Backend, Situation
from fanal.kernels.reference import causal_grouped_attention

SEQ_LENGTH, BATCH = 200, 2
FEWER_QUERIES = 90
"""Queries of a row, the last ones, where a model has fewer than keys: documents of the trial end before them, one among them."""
STARTS = (0, 1, 130, 200, 270, 400)
"""Documents of the trial: one of one token, one that is longer than a block of a kernel, a row's boundary."""
WINDOW = 70
"""Window of the trial, at most: it must hide something of a row."""
BOUNDS = {torch.float32: (1e-3, 1e-3), torch.bfloat16: (2**-6, 4e-2), torch.float16: (2**-8, 1e-2)}
"""Largest difference from the definition, of the output and of gradients, as a share of its norm. Rounding stays four times below
(tests/gpu/test_on_a_gpu.py has the bounds of tests); a mask that is off by one token or a wrong head is far above."""


def failure(backend: Backend, situation: Situation, device: torch.device) -> str | None:
    """Return how a trial of a backend fails on a device; None if it does not. Forward and backward, a few MB, no collective.

    A kernel that damages the CUDA context fails here too, and everything after it: then the run ends with that error.
    """
    windows = {None, None if situation.window is None else min(situation.window, WINDOW)}
    queries = (SEQ_LENGTH, FEWER_QUERIES) if situation.fewer_queries else (SEQ_LENGTH,)
    for num_queries, window in product(queries, sorted(windows, key=lambda window: window or 0)):
        try:
            off = _off(backend, situation, device, num_queries, window)
        except Exception as error:  # of whatever kind: each package has its own, and none of them must end the run
            return f"its trial on this device ended with {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if off is not None:
            return off
    return None


def _off(
    backend: Backend, situation: Situation, device: torch.device, num_queries: int, window: int | None
) -> str | None:
    """Return where a backend is off its definition by more than rounding; None if nowhere."""
    generator = torch.Generator().manual_seed(0)
    of_queries, of_keys = (num_queries, BATCH, situation.num_heads), (SEQ_LENGTH, BATCH, situation.num_groups)
    shapes = (of_queries, of_keys, of_keys, of_queries)
    drawn = [torch.randn(*shape, situation.head_size, generator=generator) for shape in shapes]
    *inputs, upstream = (tensor.to(device, situation.dtype) for tensor in drawn)
    starts = torch.tensor(STARTS, dtype=torch.int32, device=device) if situation.documents else None
    options = (None, starts, window, situation.soft_cap)
    found = _results(backend.call, inputs, upstream, options)
    wanted = _results(causal_grouped_attention, [tensor.float() for tensor in inputs], upstream.float(), options)
    of_output, of_gradients = BOUNDS[situation.dtype]
    for name, result, expected in zip(("output", "query", "key", "value"), found, wanted, strict=True):
        difference = float((result.float() - expected).norm() / expected.norm())
        if not difference <= (of_output if name == "output" else of_gradients):  # NaN too
            what = name if name == "output" else f"gradient of the {name}"
            if num_queries < SEQ_LENGTH:
                what += ", fewer queries than keys"
            return f"its trial on this device is off the definition by {difference:.2g} of the norm ({what})"
    return None


def _results(call, inputs: list[Tensor], upstream: Tensor, options: tuple) -> list[Tensor]:
    """Return the output and the gradients of query, key and value."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    with torch.enable_grad():
        output = call(*leaves, *options).reshape(upstream.shape)
        # Memory that a kernel leaves as it finds it, such as the gradients of keys that no query sees, is likely this one.
        left_behind = [torch.full_like(leaf, float("nan")) for leaf in leaves]
        del left_behind
        return [output.detach(), *torch.autograd.grad(output, leaves, upstream)]
