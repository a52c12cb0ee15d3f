"""Initial values that depend only on a parameter's name and the seed.

Every layout and every device starts from the same model bit for bit: the full weight is defined in blocks of rows, each
drawn from a counter-based generator keyed by (seed, name, block), and a rank draws the blocks it needs and keeps its share.
Cost: a rank draws its own rows of row-split weights, and all of a column-split one (about 150 M values a second and core).
"""

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
import torch

from pretrain.model.families.split import Block, blocks_of_rank
from pretrain.model.families.table import EMBEDDING, OUTPUT, TensorSpec

ROWS_PER_BLOCK = 64


def full_rows(*, seed: int, name: str, std: float, rows: range, columns: int) -> np.ndarray:
    """Draw rows of a full weight, normal with mean 0: float32 [len(rows), columns].

    Source: Philox, Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.
    """
    values = np.empty((len(rows), columns), dtype=np.float32)
    for block in range(rows.start // ROWS_PER_BLOCK, -(-rows.stop // ROWS_PER_BLOCK)):
        key = hashlib.blake2b(f"{seed}/{name}/{block}".encode(), digest_size=16).digest()
        generator = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
        drawn = generator.standard_normal((ROWS_PER_BLOCK, columns), dtype=np.float32)
        first = block * ROWS_PER_BLOCK
        low, high = max(rows.start, first), min(rows.stop, first + ROWS_PER_BLOCK)
        values[low - rows.start : high - rows.start] = drawn[low - first : high - first]
    return values * np.float32(std)


@torch.no_grad()
def initialize(
    chunk: torch.nn.Module, specs: Mapping[str, TensorSpec], *, seed: int, tp_rank: int, num_ranks: int
) -> None:
    """Fill every parameter of one model chunk with this rank's share of its initial values.

    Args: specs: the table of the whole model; num_ranks: tensor-parallel ranks.
    """
    for spec, parameter in named_specs(chunk, specs):
        if spec.init_std is None:
            parameter.fill_(spec.init_value)
            continue
        first = 0
        for block in blocks_of_rank(spec, num_ranks=num_ranks, rank=tp_rank):
            _fill(parameter[first : first + len(block.rows)], spec, block, seed)
            first += len(block.rows)
        if spec.has_token_rows:
            _zero_padding(parameter, spec, tp_rank)


def named_specs(
    chunk: torch.nn.Module, specs: Mapping[str, TensorSpec]
) -> Iterator[tuple[TensorSpec, torch.nn.Parameter]]:
    """Yield the parameters of a model chunk, each with its tensor. Tied, the last stage holds a copy of the embedding as its output
    layer: both have the embedding's."""
    for name, parameter in global_named_parameters(chunk):
        yield specs[EMBEDDING if name == OUTPUT and OUTPUT not in specs else name], parameter


def global_named_parameters(chunk: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Yield the parameters of a model chunk under their names in the whole model (layers counted from 0 globally)."""
    decoder: torch.nn.Module = chunk.decoder  # type: ignore[assignment]
    numbers = [layer.layer_number - 1 for layer in decoder.layers]  # type: ignore[operator,union-attr]
    for name, parameter in chunk.named_parameters():
        if name.startswith("decoder.layers."):
            _, _, local, rest = name.split(".", 3)
            name = f"decoder.layers.{numbers[int(local)]}.{rest}"
        yield name, parameter


def _fill(target: torch.Tensor, spec: TensorSpec, block: Block, seed: int) -> None:
    """Fill the rows of a parameter that are a block of the whole, which lies in one section."""
    assert spec.init_std is not None, f"{spec.name} has no standard deviation to draw with"
    section, names = spec.shape[0] // len(spec.seed_names), spec.seed_names
    number = block.rows.start // section
    rows = range(block.rows.start - number * section, block.rows.stop - number * section)
    full = full_rows(seed=seed, name=names[number], std=spec.init_std, rows=rows, columns=spec.shape[1])
    columns = block.columns or range(spec.shape[1])
    target.copy_(torch.from_numpy(full[:, columns.start : columns.stop]))


def _zero_padding(parameter: torch.Tensor, spec: TensorSpec, tp_rank: int) -> None:
    """Fill padding rows and rows past the end with zeros: no token reads them, the loss leaves them out, and zeros show that."""
    first_row = tp_rank * parameter.shape[0]
    parameter[max(0, spec.shape[0] - spec.padding_rows - first_row) :].zero_()
