"""One step of the 1.27 B model, Fanal's beside others': time, tokens a second, MFU in both conventions, peak memory.

Contestants run one after the other, each alone in memory, from Fanal's initial weights and on the same tokens; on the first step
each must find Fanal's loss and gradient norm within rounding. Without megatron-core, PyTorch's contestants run alone.
"""

import gc
import logging
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from importlib.util import find_spec

import torch

from bench.gpu.found import Findings, findings_here
from bench.gpu.model import GIB, flops_per_token, lone_rank, parameters, shape_here, synchronize
from bench.gpu.setting import Setting, here
from bench.gpu.stages import TRAINER
from bench.step.race import BOUNDS, REFERENCE
from bench.step.task import Contestant, Figures, Shape, Weights, batches

ROUNDS, STEPS, WARM_UP = 3, 4, 3
"""Rounds that are timed, steps of each, and steps before the first, of which the very first is compared."""
MOST_HELD_GIB = 0.5
NAMES = {
    REFERENCE: "Fanal",
    "compiled": "plain PyTorch, compiled by layer",
    "hf": "Hugging Face",
    "plain": "plain PyTorch",
}


class Course:
    """All contestants on one device: what they train, what the first of them found, what is written down."""

    def __init__(self, setting: Setting, findings: Findings) -> None:
        self.setting, self.findings = setting, findings
        self.shape: Shape = shape_here(setting)
        self.device = torch.device(setting.device, 0) if setting.device == "cuda" else torch.device("cpu")
        self.rounds, self.steps = (1, 1) if setting.tiny else (ROUNDS, STEPS)
        self.data = batches(self.shape, self.steps + WARM_UP)
        self.weights: Weights | None = None
        self.figures: Figures | None = None
        """Of Fanal's first step."""
        self.fanal_s: float | None = None
        self.peak = _peak_tflops(setting)

    def run(self, name: str, make: Callable[[], Contestant]) -> None:
        """Make a contestant, compare its first step, time it, and let it go. One that does not fit in memory is said to."""
        gc.collect()
        if self.setting.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated() / GIB
            if held > MOST_HELD_GIB:
                self.findings.note(f"{held:.1f} GiB were still held when {NAMES[name]} began; its peak has them too")
        began = time.perf_counter()
        try:
            contestant = make()
            first = contestant.step(self.data[0])
            assert first is not None
            for rows in self.data[1:WARM_UP]:
                contestant.step(rows)
            synchronize(self.setting)
            ready_s = time.perf_counter() - began
            times = [self._round(contestant) for _ in range(self.rounds)]
        except torch.OutOfMemoryError:
            self.findings.note(f"{NAMES[name]}: out of memory with {self.shape.batch_size} rows")
            return
        except Exception as error:  # of whatever kind: the others are to run
            traceback.print_exc()
            self.findings.fault(f"{NAMES[name]}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
            return
        self._compare(name, first)
        self._write(name, times, ready_s, first)

    def _round(self, contestant: Contestant) -> float:
        """Return the seconds of a step, over a few."""
        synchronize(self.setting)
        began = time.perf_counter()
        for rows in self.data[WARM_UP:]:
            contestant.step(rows)
        synchronize(self.setting)
        return (time.perf_counter() - began) / self.steps

    def _compare(self, name: str, first: Figures) -> None:
        if name == REFERENCE:
            self.figures = first
        elif self.figures is not None:
            for what, bound in BOUNDS["bf16"]._asdict().items():
                ours, theirs = getattr(self.figures, what), getattr(first, what)
                if not abs(theirs / ours - 1) <= bound:  # NaN too
                    self.findings.fault(
                        f"{NAMES[name]}: {what} of the first step is {theirs}, Fanal's {ours}; {bound} is allowed"
                    )

    def _write(self, name: str, times: Sequence[float], ready_s: float, first: Figures) -> None:
        middle = statistics.median(times)
        self.fanal_s = middle if name == REFERENCE else self.fanal_s
        speed = self.shape.tokens / middle
        memory = torch.cuda.max_memory_allocated() / GIB if self.setting.device == "cuda" else None
        mfu = {
            f"MFU {word}": _share(speed * flops_per_token(self.shape, causal=causal), self.peak)
            for word, causal in (("full", False), ("causal", True))
        }
        self.findings.row(
            "one step",
            {
                "contestant": NAMES[name],
                "ms a step [range]": f"{middle * 1e3:.1f} [{min(times) * 1e3:.1f} to {max(times) * 1e3:.1f}]",
                "tokens/s": f"{speed:,.0f}", **mfu,
                "time / Fanal's": "-" if self.fanal_s is None else f"{middle / self.fanal_s:.2f}",
                "peak, GiB": "-" if memory is None else f"{memory:.1f}",
                "first loss": f"{first.loss:.5f}", "first gradient norm": f"{first.grad_norm:.4f}",
                "s until warm": f"{ready_s:.0f}",
            },
        )  # fmt: skip


def main() -> int:
    logging.disable(logging.WARNING)
    setting, findings = here(), findings_here()
    course = Course(setting, findings)
    shape = course.shape
    findings.note(
        f"{parameters(shape) / 1e9:.2f} B parameters (h {shape.hidden_size}, {shape.num_layers} layers, "
        f"ffn {shape.ffn_hidden_size}, {shape.num_heads}/{shape.num_groups} heads, vocabulary {shape.vocab_size:,}), bf16, "
        f"steps of one micro batch of {shape.batch_size} x {shape.seq_length:,} tokens, "
        f"{course.rounds} rounds of {course.steps} steps"
    )
    absent = [name for name in TRAINER if find_spec(name.split(".")[0]) is None]
    if absent:
        findings.note(f"Fanal did not run, nor is anything compared with it; not installed here: {', '.join(absent)}")
    else:
        _run_fanal(course)
    _run_others(course)
    return findings.exit_code()


def _run_fanal(course: Course) -> None:
    from bench.step.ours import Fanal
    from pretrain.model.gpt import attention_choice

    with lone_rank(course.setting) as world:

        def make() -> Contestant:
            fanal = Fanal(course.shape, "bf16", world)
            choice = attention_choice(fanal.model)
            course.findings.note(f"Fanal's attention: {choice.name}; passed over: {choice.passed_over or 'none'}")
            course.weights = {name: weight.cpu() for name, weight in fanal.weights().items()}
            return fanal

        course.run(REFERENCE, make)


def _run_others(course: Course) -> None:
    from bench.step.plain import Plain

    def plain(*, compiled: bool) -> Contestant:
        return Plain(course.shape, "bf16", course.weights, compiled=compiled, by_layer=compiled, device=course.device)

    def hugging_face() -> Contestant:
        from bench.step.hugging_face import HuggingFace

        return HuggingFace(course.shape, "bf16", course.weights, device=course.device)

    course.run("compiled", lambda: plain(compiled=True))
    if find_spec("transformers") is None:
        course.findings.note("Hugging Face did not run; not installed here: transformers")
    else:
        course.run("hf", hugging_face)
    course.run("plain", lambda: plain(compiled=False))


def _peak_tflops(setting: Setting) -> float | None:
    """Return the GPU's dense bf16 peak; None where it is not known, or on a machine without what the trainer's table needs."""
    if setting.device == "cpu" or find_spec("omegaconf") is None:
        return None
    from pretrain.model.flops import peak_tflops

    return peak_tflops(torch.cuda.get_device_name())


def _share(flops_per_second: float, peak_tflops: float | None) -> str:
    return "-" if peak_tflops is None else f"{flops_per_second / (peak_tflops * 1e12):.1%}"


if __name__ == "__main__":
    sys.exit(main())
