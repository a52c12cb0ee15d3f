"""Compile every Triton kernel ahead, and count the bytes it moves; on a machine with a GPU, measure it too.

python -m bench.kernels [--write]: --write puts the page into bench/results/kernels.md, without the measurement.
"""

import argparse
from pathlib import Path

import torch

from bench.kernels.on_gpu import measured_table
from bench.kernels.table import bytes_table, compiled, compiled_table

PAGE = Path("bench/results/kernels.md")
HEAD = """# Triton kernels, compiled ahead

`make kernels` prints these tables; `python -m bench.kernels --write` wrote this page, with triton {version} and no GPU. No kernel
has been run on a GPU yet, so there is no time here.

## What a kernel takes

Registers of a thread and shared memory of a program on each GPU; what a thread spills into its own memory, in bytes, on the worst
of NVIDIA's and of AMD's; and how much of what its loads of blocks name goes in pieces of 128 bits, on the worst of NVIDIA's.

{compiled}

## What an operation moves

Bytes between a GPU and its memory for each element of the largest tensor, from the shapes that its kernels are started with: every
tensor once, and twice where it is written over. "Least": what no kernel can do without, its inputs and outputs in bf16.

{bytes}
"""


def main() -> None:
    """Print the tables, and write them if asked."""
    parser = argparse.ArgumentParser(prog="python -m bench.kernels", description=__doc__)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    taken, counted = "\n".join(compiled_table(compiled())), "\n".join(bytes_table())
    print(taken, counted, sep="\n\n")
    if options.write:
        import triton  # pyright: ignore[reportMissingImports]

        PAGE.write_text(HEAD.format(version=triton.__version__, compiled=taken, bytes=counted))
    print()
    if not torch.cuda.is_available():
        print("No GPU here: nothing was measured.")
        return
    for line in measured_table():
        print(line)


if __name__ == "__main__":
    main()
