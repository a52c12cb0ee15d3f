"""What stands in for a GPU replaces what exists, and keeps what CUDA's kernels keep."""

import importlib

import pytest

from pretrain.rehearse import stand_ins
from tests.unit.rehearse.alone import answer


def test_everything_that_is_replaced_or_private_exists_in_the_pinned_pytorch() -> None:
    assert stand_ins.missing() == []
    assert stand_ins.missing([("torch", "no_such_name")]) == ["torch.no_such_name"]
    assert all(hasattr(importlib.import_module(module), name) for module, name in stand_ins.OF_OURS)


KEPT = """
import json, torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from pretrain.rehearse import stand_ins
device = stand_ins.take_fake_gpu()
kept = []
with stand_ins.LikeCuda(), FakeTensorMode(allow_non_fake_inputs=True):
    def tensor(*shape, dtype=torch.bfloat16):
        return torch.empty(shape, dtype=dtype, device=device, requires_grad=True)
    def keep(saved):
        kept.append([list(saved.shape), str(saved.dtype)])
        return saved
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        {code}
print(json.dumps(kept))
"""


def kept(code: str) -> list[list[object]]:
    """Shape and type of what an operation keeps for the backward pass."""
    return answer(KEPT.format(code=code))


def test_the_norm_keeps_its_input_its_weight_and_a_number_a_row() -> None:
    assert kept("F.rms_norm(tensor(8, 16), (16,), tensor(16), 1e-5)") == [
        [[8, 16], "torch.bfloat16"],
        [[16], "torch.bfloat16"],
        [[8], "torch.float32"],
    ]


def test_causal_attention_keeps_a_number_a_row_and_no_scores() -> None:
    found = kept(
        "F.scaled_dot_product_attention(tensor(1, 8, 64, 32), tensor(1, 2, 64, 32), tensor(1, 2, 64, 32), is_causal=True, enable_gqa=True)"
    )
    assert [[1, 8, 64], "torch.float32"] in found
    assert all(shape[-2:] != [64, 64] for shape, _ in found if isinstance(shape, list))


def test_attention_in_fp32_with_grouped_queries_keeps_the_scores() -> None:
    found = kept(
        "F.scaled_dot_product_attention(tensor(1, 8, 64, 32, dtype=torch.float32), *[tensor(1, 2, 64, 32, dtype=torch.float32)] * 2, "
        "is_causal=True, enable_gqa=True)"
    )
    assert [[1, 8, 64, 64], "torch.float32"] in found


def test_adamw_takes_its_foreach_form_as_on_cuda() -> None:
    code = """
import json, torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim.optimizer import _default_to_fused_or_foreach
from pretrain.rehearse import stand_ins
stand_ins.replace_what_needs_values()
device = stand_ins.take_fake_gpu()
with FakeTensorMode():
    print(json.dumps(_default_to_fused_or_foreach([torch.empty(2, device=device)], False, False)))
"""
    assert answer(code) == [False, True]


@pytest.mark.parametrize("attention", ["flash4", "flash2", "triton", "sdpa"])
def test_windows_and_caps_and_documents_are_rehearsed_with_either_kernel(attention: str) -> None:
    code = f"""
import dataclasses, json
from pretrain.config.load import load_run
from pretrain.rehearse.rank import rehearse_rank
run = load_run("configs/tiny.yaml", ["parallel.device=auto", "train.precision=bf16", "train.global_batch_size=8",
    "model.attention_backend={attention}", "model.sliding_window=64", "model.attention_logit_softcap=20", "data.document_mask=true"])
print(json.dumps(dataclasses.asdict(rehearse_rank(run, rank=0, num_ranks=4))))
"""
    found = answer(code)
    assert found["attention"] == attention
    assert found["peak_bytes"] > found["after_step_bytes"] > found["with_optimizer_bytes"] > found["model_bytes"] > 0
    for what in ("peak_parts", "peak_lines"):
        assert sum(part["num_bytes"] for part in found[what]) == found["peak_bytes"]


FIGURES = """
import json
from pretrain.config.load import load_run
from pretrain.rehearse.rank import rehearse_rank
base = ["parallel.device=auto", "train.precision=bf16", "train.global_batch_size=8", "train.micro_batch_size=2"]
found = []
for overrides in {cases}:
    run = load_run("configs/tiny.yaml", base + overrides)
    rank = rehearse_rank(run, rank=0, num_ranks=4)
    found.append([rank.step.flops, rank.peak_bytes])
print(json.dumps(found))
"""


def test_the_products_of_attention_are_counted_alike_whatever_the_backend() -> None:
    backends = ("sdpa", "flash4", "varlen", "triton")
    masks: tuple[list[str], ...] = ([], ["data.document_mask=true", "data.seq_length=1024"])
    cases = [[f"model.attention_backend={backend}", *mask] for mask in masks for backend in backends]
    found = [flops for flops, _ in answer(FIGURES.format(cases=cases))]
    layers, hidden_of_a_rank, micro_batches, rows = 2, 96, 4, 2
    for seq_length, (sdpa, flash4, varlen, triton) in ((256, found[:4]), (1024, found[4:])):
        product = 2 * seq_length**2 * hidden_of_a_rank * layers * rows * micro_batches
        assert sdpa == flash4 == varlen == triton - 2 * product, (
            "the backward of ours makes the scores and their gradient twice"
        )


OF_A_PART = """
import json, torch
from torch._subclasses.fake_tensor import FakeTensorMode
from fanal.kernels.attention import causal_attention
from pretrain.rehearse import stand_ins
from pretrain.rehearse.meter import Meter
device = stand_ins.take_fake_gpu()
found = {{}}
for backend, dtype in {cases}:
    meter = Meter(device.type)
    stand_ins.stand_in_for_packages(backend, meter)
    for documents in (False, True):
        flops = []
        for q in (64, 24):
            with stand_ins.LikeCuda(), FakeTensorMode(allow_non_fake_inputs=True), meter:
                meter.begin()
                query = torch.empty(q, 2, 8, 32, dtype=getattr(torch, dtype), device=device, requires_grad=True)
                key = torch.empty(64, 2, 2, 32, dtype=query.dtype, device=device, requires_grad=True)
                value = torch.empty_like(key).requires_grad_()
                starts = torch.empty(5, dtype=torch.int32, device=device) if documents else None
                output = causal_attention(query, key, value, backend, document_starts=starts)
                output.backward(torch.empty_like(output))
                assert output.shape == (q, 2, 256) and query.grad.shape == query.shape and key.grad.shape == key.shape
            flops.append(meter.counts.flops["products"])
        found[f"{{backend}} {{dtype}} {{documents}}"] = flops
print(json.dumps(found))
"""


def test_fewer_queries_than_keys_are_rehearsed_and_their_products_are_all_queries_times_all_keys() -> None:
    backends = ("sdpa", "flash4", "flash2", "varlen", "triton")
    cases = [*((backend, "bfloat16") for backend in backends), ("sdpa", "float32"), ("triton", "float32")]
    found = answer(OF_A_PART.format(cases=cases))
    assert len(found) == 2 * len(cases)
    product = 2 * 2 * 8 * 32 * 64  # of one query of each row and head, and 64 keys
    for name, flops in found.items():
        products = 9 if name.startswith("triton") else 7
        assert flops == [products * 64 * product, products * 24 * product], (name, flops)


THREADS = """
import json, threading, torch
from torch._subclasses.fake_tensor import FakeTensorMode
from pretrain.rehearse import stand_ins
device = stand_ins.take_fake_gpu()
threads = []
with FakeTensorMode():
    ones = torch.ones(2, device=device, requires_grad=True)
    ones.register_hook(lambda gradient: threads.append(threading.get_ident()))
    ones.sum().backward()
print(json.dumps([threads, threading.get_ident()]))
"""


def test_the_backward_of_a_fake_gpu_runs_on_the_thread_that_calls_it() -> None:
    threads, own = answer(THREADS)
    assert threads == [own], (
        "a thread of torch's that lets go of Python's at the interpreter's end ends it with SIGABRT"
    )


def test_what_torch_compiles_is_rehearsed_as_what_it_keeps() -> None:
    torch_s = [f"kernels.{name}=torch" for name in ("rms_norm", "activation", "rotary")]
    plain, compiled = answer(FIGURES.format(cases=[torch_s, [*torch_s, "train.compile=true"]]))
    assert compiled == plain


def test_a_run_on_a_gpu_that_is_to_be_deterministic_is_rehearsed_without_one() -> None:
    plain, asked = answer(FIGURES.format(cases=[[], ["parallel.device=cuda", "train.deterministic=true"]]))
    assert asked == plain


def test_documents_apart_on_a_cpu_are_rehearsed_as_calls_of_their_own() -> None:
    cpu, long = "parallel.device=cpu", ["data.seq_length=1024", "train.precision=fp32"]
    context = ["parallel.context_parallel_size=2", "parallel.pipeline_model_parallel_size=1"]
    cases = [
        [cpu, *long, *layout, f"data.document_mask={mask}"] for layout in ([], context) for mask in ("false", "true")
    ]
    code = FIGURES.replace("num_ranks=4)", "num_ranks=4, device_type='cpu')")
    (whole, _), (apart, _), (whole_shared, _), (apart_shared, _) = answer(code.format(cases=cases))
    # Two documents of half a row have half of the products of its attention.
    assert apart < whole and apart_shared < whole_shared
