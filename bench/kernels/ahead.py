"""Compile a kernel for GPUs that are not here, and read from the result what it takes. No GPU, no driver.

It proves registers, spills, shared memory and the width of loads; it proves no speed, and no absence of races.
"""

import importlib
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from bench.kernels.recorded import Compilation
from fanal.host_cores import host_cores
from fanal.kernels.triton.launch import Constant

NVIDIA = ("sm_80", "sm_90", "sm_100")
AMD = ("gfx90a", "gfx942")
TARGETS = (*NVIDIA, *AMD)


@dataclass(frozen=True)
class Compiled:
    """What a kernel takes on a GPU."""

    target: str
    registers: int
    """Of a thread, 32 bits each; on AMD those of vectors, accumulators included."""
    spilled_bytes: int
    """Of a thread's own memory: spilled registers, and anything else that does not fit."""
    shared_bytes: int
    wide_share: float
    """Of the bits that its loads of blocks name, those in loads of 128 bits a thread."""


def compile_all(jobs: Sequence[tuple[Compilation, str]]) -> dict[tuple[Compilation, str], Compiled]:
    """Compile each for its target, on all cores; Triton keeps the results in TRITON_CACHE_DIR."""
    different = list(dict.fromkeys(jobs))
    # spawn: a child of fork would share this process's threads' locks.
    with ProcessPoolExecutor(host_cores(), get_context("spawn"), initializer=_without_interpreter) as pool:
        return dict(zip(different, pool.map(_compile_job, different), strict=True))


def _without_interpreter() -> None:
    """Turn Triton's interpreter off in a process that has not imported Triton yet: what it decorates cannot be compiled."""
    os.environ.pop("TRITON_INTERPRET", None)


def _compile_job(job: tuple[Compilation, str]) -> Compiled:
    return compile_ahead(*job)


def compile_ahead(compilation: Compilation, target: str) -> Compiled:
    """Compile for one target, by Triton's own compiler. Triton's interpreter must be off."""
    import triton  # pyright: ignore[reportMissingImports]
    from triton.backends.compiler import GPUTarget  # pyright: ignore[reportMissingImports]
    from triton.compiler import ASTSource  # pyright: ignore[reportMissingImports]

    module, function = compilation.kernel.split(".")
    kernel = getattr(importlib.import_module(f"fanal.kernels.triton.device.{module}"), function)
    signature, attributes = {}, {}
    constants: dict[str, Constant | None] = dict(compilation.constants)
    for i, (name, (kind, aligned, value)) in enumerate(zip(kernel.arg_names, compilation.arguments, strict=False)):
        signature[name] = kind
        if kind == "constexpr":
            constants[name] = value
        elif aligned:
            attributes[(i,)] = [["tt.divisibility", 16]]
    assert {*signature, *constants} == {*kernel.arg_names}, f"{compilation.kernel}: {kernel.arg_names}"
    signature = {name: signature.get(name, "constexpr") for name in kernel.arg_names}
    gpu = GPUTarget("cuda", int(target[3:]), 32) if target in NVIDIA else GPUTarget("hip", target, 64)
    binary = triton.compile(
        ASTSource(kernel, signature, constants, attributes),
        target=gpu,
        options={"num_warps": compilation.num_warps, "num_stages": compilation.num_stages},
    )
    return (_on_nvidia if target in NVIDIA else _on_amd)(target, binary.asm, binary.metadata.shared)


def resources(cubin: Path) -> tuple[int, int]:
    """Return the registers of a thread that a compiled kernel takes, and the bytes of its own memory, where spilled ones lie."""
    import triton.backends.nvidia  # pyright: ignore[reportMissingImports]

    program = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
    usage = subprocess.run([program, "-res-usage", cubin], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage.stdout + usage.stderr)
    assert found, usage.stdout + usage.stderr
    registers, stack, local = map(int, found.groups())
    return registers, stack + local


def _on_nvidia(target: str, assembly: dict, shared: int) -> Compiled:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(assembly["cubin"])
        file.flush()
        registers, spilled = resources(Path(file.name))
    widths = [
        int(count or 1) * int(bits)
        for count, bits in re.findall(r"ld\.global(?:\.[a-z0-9_:]+?)*?(?:\.v(\d))?\.[bfsu](\d+)", assembly["ptx"])
    ]
    # Copies into shared memory, 16 bytes or fewer each.
    widths += [
        8 * int(size, 0)
        for size in re.findall(r"cp\.async\.c[ag]\.shared\.global[^;]*?, (0x[0-9a-f]+|\d+)", assembly["ptx"])
    ]
    return Compiled(target, registers, spilled, shared, _wide(widths, assembly))


def _on_amd(target: str, assembly: dict, shared: int) -> Compiled:
    text = assembly["amdgcn"]
    registers = int(re.findall(r"\.vgpr_count: +(\d+)", text)[0])
    private = int(re.findall(r"\.private_segment_fixed_size: +(\d+)", text)[0])
    spilled = sum(4 * int(count) for count in re.findall(r"\.vgpr_spill_count: +(\d+)", text))
    loads = re.findall(r"(?:global|buffer)_load_(dwordx?\d?|[us]?byte|[us]?short)", text)
    bits = {"dword": 32, "dwordx2": 64, "dwordx3": 96, "dwordx4": 128}
    return Compiled(
        target, registers, max(private, spilled), shared, _wide([bits.get(load, 16) for load in loads], assembly)
    )


def _wide(widths: Sequence[int], assembly: dict) -> float:
    """Return the share of wide loads, the loads of single numbers left out: in Triton's own code they are no tensors."""
    single = len(re.findall(r"tt\.load [^\n]*: !tt\.ptr<", assembly["ttgir"]))
    of_blocks = sorted(widths)[single:]
    return sum(width for width in of_blocks if width >= 128) / max(sum(of_blocks), 1)
