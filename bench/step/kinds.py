"""Where the time of Fanal's step goes, by kinds of work: what torch.profiler saw, sorted by the code that asked for it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile

from bench.step.task import Contestant

PRODUCTS, ATTENTION, GRADIENTS = "products", "attention", "gradients into their buffer"
PYTHON, ELSEWHERE = "Python, profiler included", "elsewhere"
PRODUCT = re.compile(r"aten::(mm|addmm|_addmm_activation|mkldnn_linear|linear)$|mkldnn::_linear")
FRAMES = {
    r"clip_grads|gradient_norm|get_grad_norm|clip_gradients": "gradient norm and clip",
    r"optimizer\.py|optim/|adamw|torch/optim": "adam",
    r"(start|finish)_grad_sync|finalize_model_grads": "gradients reduced and scaled",
    r"param_and_grad_buffer|distributed_data_parallel": GRADIENTS,
    r"cross_entropy|compute_language_model_loss": "cross entropy",
    r"model/loss\.py": "masked loss",
    r"kernels/[a-z_]*norm|model/norms|: \w*Norm_": "rms norm",
    r"rope|rotary|model/angles": "rotary",
    r"kernels/\w*attention|CausalSelfAttention": ATTENTION,
    r"swiglu|activation|: (FeedForward|MLP)_|transformer/mlp\.py": "swiglu",
    r": VocabParallelEmbedding_|model/embedding": "embedding",
    r": (Column|Row)ParallelLinear_": "linear, but for its products",
    r"get_query_key_value_tensors": "queries, keys, values apart",
}
"""A pattern for Python's frames as the profiler names them, "file(line): function" or "nn.Module: Name_0", and the kind of what
runs inside. The innermost frame that any of them fits decides."""


def profiled(contestant: Contestant, data: Sequence[torch.Tensor]) -> str:
    """Return a text of the kinds: seconds per step, share, and the operations that take most of each.

    On one thread, since waiting at a barrier is of no kind. Two steps are not counted.
    """
    for rows in data[:2]:
        contestant.step(rows)
    with profile(
        activities=[ProfilerActivity.CPU],
        with_stack=True,
        experimental_config=_ExperimentalConfig(verbose=True),
    ) as seen:
        for rows in data[2:]:
            contestant.step(rows)
    by_kind: dict[str, dict[str, float]] = {}
    for kind, operation, seconds in _by_kind(seen.events() or []):
        operations = by_kind.setdefault(kind, {})
        operations[operation] = operations.get(operation, 0.0) + seconds / len(data[2:])
    return "\n".join(_lines(by_kind))


def _lines(by_kind: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    total_s = {kind: sum(operations.values()) for kind, operations in by_kind.items()}
    step_s = sum(total_s.values())
    yield f"{step_s:.3f} s per step, {torch.get_num_threads()} thread(s)"
    for kind in sorted(total_s, key=lambda kind: -total_s[kind]):
        most = sorted(by_kind[kind].items(), key=lambda item: -item[1])[:5]
        named = ", ".join(f"{name.removeprefix('aten::')} {seconds:.3f}" for name, seconds in most if name)
        yield f"  {kind:32s} {total_s[kind]:8.4f} s {total_s[kind] / step_s:6.1%}   {named}"


def _by_kind(events: Sequence[Any]) -> Iterator[tuple[str, str, float]]:
    """Yield kind, operation and own seconds of every event. A backward is of the kind of its forward, which autograd numbers."""
    forward = {
        event.sequence_nr: kind
        for event in events
        if event.sequence_nr >= 0 and not _is_backward(event) and (kind := _kind_of_frames(event))
    }
    for event in events:
        seconds = event.self_cpu_time_total / 1e6
        if _is_python(event.name):
            yield PYTHON, "", seconds
            continue
        kind = _kind_of_frames(event) or ELSEWHERE
        node = next((one for one in _upwards(event) if _is_backward(one)), None)
        if node is not None and "AccumulateGrad" in node.name:
            kind = GRADIENTS
        elif node is not None:
            kind = forward.get(node.sequence_nr, kind)
        if kind != ATTENTION and PRODUCT.match(event.name):
            kind = PRODUCTS
        yield kind, event.name, seconds


def _kind_of_frames(event: Any) -> str | None:
    for frame in _upwards(event):
        if _is_python(frame.name):
            for pattern, kind in FRAMES.items():
                if re.search(pattern, frame.name):
                    return kind
    return None


def _upwards(event: Any) -> Iterator[Any]:
    while event is not None:
        yield event
        event = event.cpu_parent


def _is_backward(event: Any) -> bool:
    return event.name.startswith("autograd::engine::evaluate_function")


def _is_python(name: str) -> bool:
    return name.startswith(("nn.Module: ", "<built-in")) or bool(re.search(r"\.pyx?\(\d+\): ", name))
