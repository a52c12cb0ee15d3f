"""Every attention backend on the device: its trial against the definition, the kernels that it ran by the profiler, its time."""

import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.profiler import profile

from bench.gpu.found import Findings, findings_here
from bench.gpu.model import synchronize
from bench.gpu.profiled import activities, totals
from bench.gpu.setting import Setting, here
from fanal.kernels import attention_trial
from fanal.kernels.attention import causal_attention
from fanal.kernels.attention_backend import Situation
from fanal.kernels.attention_choice import BACKENDS, select_attention_backend, situation_here

FUSED = ("flash", "fmha", "attention", "cudnn", "sdpa")
"""Parts of names, one of which every fused kernel of attention has. Those of plain products have none."""
OURS = ("forward", "for_queries", "for_keys")
"""Names of our own kernels, of fanal.kernels.triton.device: the profiler knows a Triton kernel by its function's."""
CALLS = 5
MOST_NAMES = 4
ASKED: dict[str, dict[str, Any]] = {"whole rows": {}, "documents": {"documents": True}, "a window": {"window": 100}}


def inputs(situation: Situation, seq_length: int, device: torch.device) -> tuple[list[Tensor], dict[str, Any]]:
    """Return query, key and value that need gradients, and the options of a call in this situation."""
    heads = (situation.num_heads, situation.num_groups, situation.num_groups)
    tensors = [
        torch.randn(seq_length, 1, n, situation.head_size, device=device, dtype=situation.dtype, requires_grad=True)
        for n in heads
    ]
    starts = torch.tensor([0, seq_length // 3, seq_length], dtype=torch.int32, device=device)
    return tensors, {"document_starts": starts if situation.documents else None, "window": situation.window}


def kernels_of(backend: str, situation: Situation, seq_length: int, device: torch.device) -> list[str]:
    """Return the names of what ran in a forward and a backward, longest first: CUDA kernels on a GPU, operations on a CPU."""
    (query, key, value), options = inputs(situation, seq_length, device)

    def once() -> None:
        causal_attention(query, key, value, backend, **options).sum().backward()

    once()
    on_gpu = device.type == "cuda"
    with profile(activities=activities(on_gpu=on_gpu)) as seen:
        once()
        if on_gpu:
            torch.cuda.synchronize()
    return list(totals(seen, on_gpu=on_gpu))


def main() -> int:
    setting, findings = here(), findings_here()
    device = torch.device(setting.device, 0) if setting.device == "cuda" else torch.device("cpu")
    heads, groups, size, seq_length = (4, 2, 16, 64) if setting.tiny else (16, 8, 128, 4096)
    for words, asked in ASKED.items():
        if setting.tiny and "window" in asked:
            asked = {"window": 10}
        situation = situation_here(
            device=device, dtype=torch.bfloat16, head_size=size, num_heads=heads, num_groups=groups, **asked
        )
        chosen = select_attention_backend("auto", situation, device).name
        findings.note(f"{words}: 'auto' takes {chosen}")
        for name in [name for name in BACKENDS if name != "reference"]:
            try:
                _try(name, words, situation, seq_length, device, setting, findings)
            except Exception as error:  # of whatever kind: each package has its own, and the others are to be tried
                traceback.print_exc()
                findings.fault(f"{name}, {words}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return findings.exit_code()


def _try(
    name: str, words: str, situation: Situation, seq_length: int, device: torch.device, setting: Setting,
    findings: Findings,
) -> None:  # fmt: skip
    """Try one backend in one situation, and write down what it did, or why it cannot."""
    heads = f"{situation.num_heads}/{situation.num_groups} heads of {situation.head_size}"
    table = f"attention, forward and backward, {seq_length:,} tokens, {heads}, bf16"
    backend = BACKENDS[name]
    row = {"backend": name, "asked": words, "result": "", "ms": "", "kernels, longest first": ""}
    if reasons := backend.obstacles(situation):
        findings.row(table, {**row, "result": "cannot: " + "; ".join(reasons)})
        return
    if fault := attention_trial.failure(backend, situation, device):
        findings.row(table, {**row, "result": "wrong"})
        findings.fault(f"{name}, {words}: {fault}")
        return
    names = kernels_of(name, situation, seq_length, device)
    took = milliseconds(name, situation, seq_length, device, setting)
    findings.row(
        table,
        {
            **row, "result": "equals its definition", "ms": f"{took:.2f}",
            "kernels, longest first": "; ".join(one[:70] for one in names[:MOST_NAMES]),
        },
    )  # fmt: skip
    # With a window torch's own computes block by block, of plain products, and says so.
    if device.type == "cuda" and situation.window is None and not is_fused(names):
        findings.fault(f"{name}, {words}: no fused kernel ran, but {'; '.join(names[:MOST_NAMES])}")


def is_fused(names: Sequence[str]) -> bool:
    """Return whether a fused kernel is among those that took the most time."""
    return any(name in OURS or any(part in name.lower() for part in FUSED) for name in names[:MOST_NAMES])


def milliseconds(backend: str, situation: Situation, seq_length: int, device: torch.device, setting: Setting) -> float:
    """Return the time of a forward with its backward, the mean of a few on warm caches."""
    (query, key, value), options = inputs(situation, seq_length, device)
    synchronize(setting)
    began = time.perf_counter()
    for _ in range(1 if setting.tiny else CALLS):
        causal_attention(query, key, value, backend, **options).sum().backward()
    synchronize(setting)
    return (time.perf_counter() - began) / (1 if setting.tiny else CALLS) * 1e3


if __name__ == "__main__":
    sys.exit(main())
