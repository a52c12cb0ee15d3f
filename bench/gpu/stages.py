"""The stages, in order of worth: when time runs out, what is left out is worth least.

A stage says what it needs. One that lacks a package or a GPU is left out, with the reason.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

TRAINER = ("torch", "megatron.core", "numpy", "omegaconf", "blake3", "orjson", "rich", "click", "psutil")
"""Modules without which no run of ours trains."""
RUNS = (*TRAINER, "pytest", "hypothesis", "gigatoken", "sentencepiece", "zstandard")
"""Modules of the tests that train a whole run: its text becomes shards by our own tokenizer and writer."""
PYTEST = ("-m", "pytest", "-p", "bench.gpu.pytest_findings", "-p", "no:cacheprovider", "-q", "--tb=short")

ON_A_GPU = "tests/gpu/test_on_a_gpu.py"
PROVED = f"{ON_A_GPU}::test_a_run_is_proved_on_a_gpu"
"""Minutes, and the stage "resume" kills a run too."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One question to the machine, asked by a program of its own."""

    name: str
    title: str
    """What its passing means."""
    arguments: Sequence[str]
    """Of Python."""
    limit_s: float
    needs: Sequence[str] = ("torch",)
    """Modules."""
    gpus: int = 1

    def command(self) -> list[str]:
        return [sys.executable, "-W", "ignore", *self.arguments]


def _tests(*selection: str) -> list[str]:
    return [*PYTEST, *selection]


STAGES = (
    Stage(
        name="environment", title="What the machine has",
        arguments=["-m", "bench.gpu.environment"], limit_s=40, needs=(),
    ),
    Stage(
        name="kernels", title="Our Triton kernels equal their definitions, forward and backward, in fp32 and bf16",
        arguments=["-m", "bench.gpu.kernels"], limit_s=75, needs=("torch", "triton"),
    ),
    Stage(
        name="attention", title="Each attention backend equals its definition; which kernels ran, by the profiler",
        arguments=["-m", "bench.gpu.attention"], limit_s=50,
    ),
    Stage(
        name="step", title="A step of the 1.27 B model beside plain, compiled and Hugging Face's",
        arguments=["-m", "bench.gpu.step"], limit_s=120,
    ),
    Stage(
        name="resume", title="A killed run goes on bit for bit under train.deterministic; a GPU trains what a CPU does",
        arguments=_tests("tests/gpu/test_resume_on_gpus.py"), limit_s=120, needs=RUNS,
    ),
    Stage(
        name="layouts", title="TP2 + SP, PP2, CP2 and DP2 with overlap train what one rank trains",
        arguments=_tests("tests/gpu/test_layouts_on_gpus.py"), limit_s=120, needs=RUNS, gpus=2,
    ),
    Stage(
        name="memory", title="The rehearsed peak is within 10 % of what the allocator gave",
        arguments=["-m", "bench.gpu.memory"], limit_s=60, needs=TRAINER,
    ),
    Stage(
        name="bandwidths", title="Our kernels' bandwidths against a copy, and torch's times",
        arguments=["-m", "bench.gpu.bandwidths"], limit_s=60, needs=("torch", "triton"),
    ),
    Stage(
        name="machine", title="Figures of this machine for `fanal plan`, in machine.yaml beside the report",
        arguments=["-m", "bench.gpu.machine"], limit_s=60, needs=TRAINER,
    ),
    Stage(
        name="trace", title="A trace of one step, and the kernels that take its time",
        arguments=["-m", "bench.gpu.trace"], limit_s=60, needs=TRAINER,
    ),
    Stage(
        name="more", title="The other tests of tests/gpu: bf16 with overlap, stops, traces, records of memory",
        arguments=_tests(ON_A_GPU, "tests/gpu/test_triton_on_a_gpu.py", "--deselect", PROVED),
        limit_s=150, needs=RUNS,
    ),
)  # fmt: skip


def missing(stage: Stage, gpus: int) -> str | None:
    """Return why a stage cannot run here; None if it can. Imports the packages that modules lie in, not the modules."""
    absent = [name for name in stage.needs if not _is_there(name)]
    if absent:
        return f"not installed here: {', '.join(absent)}"
    if gpus < stage.gpus:
        return f"needs {stage.gpus} GPUs, {gpus} here"
    return None


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:  # of a package around it
        return False
