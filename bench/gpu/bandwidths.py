"""What bench.kernels measures on a GPU, row by row: bandwidths of our kernels against a copy, and torch's times beside ours."""

import sys

import torch

from bench.gpu.found import findings_here
from bench.gpu.setting import here
from bench.kernels.on_gpu import measured_table


def main() -> int:
    findings = findings_here()
    if here().device != "cuda" or not torch.cuda.is_available():
        findings.left_out("bandwidths are a GPU's")
        return 0
    columns: list[str] = []
    for line in measured_table():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            if line:
                findings.note(line)
        elif not columns:
            columns = cells
        elif not cells[0].startswith("---"):
            findings.row("kernels", dict(zip(columns, cells, strict=True)))
    return findings.exit_code()


if __name__ == "__main__":
    sys.exit(main())
