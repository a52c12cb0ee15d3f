"""What only a GPU shows: NCCL, CUDA kernels against their definitions, bf16 training, the same initial weights as a CPU."""

import gzip
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fanal.kernels import reference
from fanal.kernels.attention import causal_attention
from fanal.kernels.attention_choice import BACKENDS, select_attention_backend, situation_here
from fanal.kernels.rms_norm import rms_norm
from pretrain.parallel.local import run_local_ranks
from tests.dist.harness import make_run, rank_main

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def chosen(requested: str, num_groups: int, **asked: object) -> str:
    """The backend of 16 query heads of 128 in bf16, after its trial on the GPU."""
    device = torch.device("cuda", 0)
    situation = situation_here(
        device=device, dtype=torch.bfloat16, head_size=128, num_heads=16, num_groups=num_groups, **asked
    )
    return select_attention_backend(requested, situation, device).name


@pytest.mark.parametrize("requested", [name for name in BACKENDS if name != "reference"])
@pytest.mark.parametrize("asked", [{}, {"documents": True}, {"window": 100}])
def test_a_backend_that_this_machine_has_passes_its_trial(asked: dict[str, object], requested: str) -> None:
    device = torch.device("cuda", 0)
    situation = situation_here(device=device, dtype=torch.bfloat16, head_size=128, num_heads=16, num_groups=4, **asked)
    if reasons := BACKENDS[requested].obstacles(situation):
        pytest.skip("; ".join(reasons))
    assert select_attention_backend(requested, situation, device).name == requested


def test_whole_rows_run_a_fused_kernel_of_torch_and_hold_no_scores() -> None:
    tensors = [
        torch.randn(4096, 1, heads, 128, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for heads in (16, 4, 4)
    ]
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    causal_attention(*tensors, "sdpa").sum().backward()
    scores = 16 * 4096 * 4096 * 2  # bytes of the [s, s] scores of all heads in bf16
    assert torch.cuda.max_memory_allocated() - before < scores / 2


@pytest.mark.parametrize("num_groups", [1, 4, 16])
def test_attention_in_bf16_follows_its_definition_forward_and_backward(num_groups: int) -> None:
    torch.manual_seed(0)
    shapes = [(512, 2, 16, 128), (512, 2, num_groups, 128), (512, 2, num_groups, 128)]
    tensors = [torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True) for shape in shapes]
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    backend = chosen("auto", num_groups)
    output, expected = causal_attention(*tensors, backend), reference.causal_grouped_attention(*exact)
    assert relative_error(output, expected) < 2**-7
    weight = torch.randn_like(expected)
    output.backward(weight.to(output.dtype))
    expected.backward(weight)
    for found, wanted in zip(tensors, exact, strict=True):
        assert found.grad is not None and wanted.grad is not None
        assert relative_error(found.grad, wanted.grad) < 2e-2


@pytest.mark.parametrize("requested", ["auto", "varlen", "sdpa"])
def test_attention_in_documents_in_bf16_follows_its_definition_forward_and_backward(requested: str) -> None:
    torch.manual_seed(0)
    shapes = [(512, 2, 16, 128), (512, 2, 4, 128), (512, 2, 4, 128)]
    tensors = [torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True) for shape in shapes]
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    starts = torch.tensor([0, 1, 130, 511, 512, 700, 1024], dtype=torch.int32, device="cuda")
    backend = chosen(requested, 4, documents=True)
    output = causal_attention(*tensors, backend, document_starts=starts)
    expected = reference.causal_grouped_attention(*exact, document_starts=starts)
    assert relative_error(output, expected) < 2**-7
    weight = torch.randn_like(expected)
    output.backward(weight.to(output.dtype))
    expected.backward(weight)
    for found, wanted in zip(tensors, exact, strict=True):
        assert found.grad is not None and wanted.grad is not None
        assert relative_error(found.grad, wanted.grad) < 2e-2


@pytest.mark.parametrize("requested", ["auto", "sdpa"])
@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize(("window", "soft_cap"), [(100, None), (100, 5.0), (None, 5.0)])
def test_windows_and_caps_in_bf16_follow_their_definition_forward_and_backward(
    window: int | None, soft_cap: float | None, documents: bool, requested: str
) -> None:
    torch.manual_seed(0)
    shapes = [(512, 2, 16, 128), (512, 2, 4, 128), (512, 2, 4, 128)]
    tensors = [torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True) for shape in shapes]
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    starts = torch.tensor([0, 1, 130, 511, 512, 700, 1024], dtype=torch.int32, device="cuda") if documents else None
    options = {"document_starts": starts, "window": window, "soft_cap": soft_cap}
    backend = chosen(requested, 4, documents=documents, window=window, soft_cap=soft_cap)
    output = causal_attention(*tensors, backend, **options)
    expected = reference.causal_grouped_attention(*exact, **options)
    assert relative_error(output, expected) < 2**-7
    weight = torch.randn_like(expected)
    output.backward(weight.to(output.dtype))
    expected.backward(weight)
    for found, wanted in zip(tensors, exact, strict=True):
        assert found.grad is not None and wanted.grad is not None
        assert relative_error(found.grad, wanted.grad) < 2e-2


def test_rms_norm_in_bf16_follows_its_definition() -> None:
    x = torch.randn(4096, 2048, device="cuda", dtype=torch.bfloat16)
    weight = torch.rand(2048, device="cuda", dtype=torch.bfloat16)
    assert relative_error(rms_norm(x, weight, 1e-5), reference.rms_norm(x, weight, 1e-5)) < 2**-8


def train_on_cuda(config: Path, folder: Path, *overrides: str) -> dict[int, float]:
    run = make_run(config, folder, "parallel.device=cuda", *overrides)
    code, failure = run_local_ranks(rank_main, run, None, num_ranks=1, device_type="cuda", log_dir=folder / "logs")
    assert code == 0, failure
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {record["step"]: record["loss"] for record in records if record["kind"] == "step"}


def test_bf16_learns_on_a_gpu_with_overlap(small_run: Path, tmp_path: Path) -> None:
    overlap = ("parallel.overlap_grad_reduce=true", "parallel.overlap_param_gather=true")
    losses = train_on_cuda(small_run, tmp_path, "train.precision=bf16", "train.train_steps=40", *overlap)
    assert all(math.isfinite(loss) for loss in losses.values())
    assert losses[40] < losses[1] - 1.0


def test_a_run_that_was_stopped_goes_on_bit_for_bit_where_that_is_asked_for(small_run: Path, tmp_path: Path) -> None:
    asked = ("train.deterministic=true", "train.precision=bf16", "data.document_mask=true", "optim.lr_decay_samples=80")
    straight = train_on_cuda(small_run, tmp_path / "straight", *asked, "log.interval=1", "train.train_steps=8")
    first = train_on_cuda(small_run, tmp_path / "stopped", *asked, "log.interval=1", "train.train_steps=4")
    both = train_on_cuda(small_run, tmp_path / "stopped", *asked, "log.interval=1", "train.train_steps=8")
    assert sorted(first) == [1, 2, 3, 4] and both == straight


def test_a_run_is_proved_on_a_gpu(small_run: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pretrain",
        "prove",
        str(small_run),
        f"run_dir={tmp_path}",
        "parallel.device=cuda",
        "--kills",
        "2",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "train.deterministic=true" in next(tmp_path.rglob("prove.json")).read_text()


def test_a_trace_has_kernels_and_a_snapshot_of_memory_beside_it(small_run: Path, tmp_path: Path) -> None:
    train_on_cuda(small_run, tmp_path, "log.profile_from_step=3", "log.profile_steps=1", "train.train_steps=4")
    (trace,) = (tmp_path / "profile").glob("trace-*.json.gz")
    assert '"cat": "kernel"' in gzip.decompress(trace.read_bytes()).decode()
    assert len(list((tmp_path / "profile").glob("memory-*.pickle"))) == 1


def test_the_record_of_a_step_says_what_the_gpu_holds(small_run: Path, tmp_path: Path) -> None:
    train_on_cuda(small_run, tmp_path, "train.train_steps=2")
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    step = next(record for record in records if record["kind"] == "step")
    assert 0 < step["peak_memory_bytes"] <= step["reserved_memory_bytes"] < step["used_memory_bytes"]
