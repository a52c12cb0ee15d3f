"""A device that imitates bf16 is said, and one that computes in it is not."""

from pathlib import Path

import pytest
import torch

from pretrain.parallel import precision
from pretrain.parallel.precision import imitated_precision

OLD_X86 = "processor\t: 0\nmodel name\t: a CPU\nflags\t\t: fpu sse4_2 avx avx2 fma\n\nprocessor\t: 1\n"
AVX512_X86 = OLD_X86.replace("fma", "fma avx512f avx512bw avx512vl")


@pytest.mark.parametrize(
    ("cpuinfo", "said"),
    [
        (OLD_X86, "a small part of the speed of fp32"),
        (AVX512_X86, "no more than the speed of fp32"),
        (AVX512_X86.replace("fma", "fma avx512_bf16"), None),
        (AVX512_X86.replace("fma", "fma amx_bf16"), None),
        ("processor : 0\nFeatures : fp asimd sve\n", "a small part of the speed of fp32"),
        ("processor : 0\nFeatures : fp asimd sve bf16\n", None),
        ("processor : 0\n", None),
    ],
    ids=["avx2", "avx512", "avx512_bf16", "amx", "arm", "arm with bf16", "not listed"],
)
def test_a_cpu_without_bf16_is_said_with_the_precision_that_works(
    cpuinfo: str, said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(precision, "CPUINFO", tmp_path / "cpuinfo")
    line = imitated_precision("bf16", "cpu")
    assert (line is None) == (said is None)
    if line is not None and said is not None:
        assert said in line and line.endswith("; train.precision=fp32 works")
    assert imitated_precision("fp32", "cpu") is None


def test_a_system_that_lists_no_features_is_not_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "CPUINFO", tmp_path / "none")
    assert imitated_precision("bf16", "cpu") is None


def test_a_gpu_that_imitates_bf16_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for supported in (False, True):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, yes=supported: yes)
        line = imitated_precision("bf16", "cuda")
        assert (line is None) == supported
        assert supported or (line is not None and "this GPU has no instructions for bf16" in line)
