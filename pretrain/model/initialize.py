"""Initial values that depend on a parameter's name and the seed alone.

Every layout, and every device, starts from the same model bit for bit: the full weight is defined in blocks of rows, each
drawn from a counter-based generator keyed by (seed, name, block), and a rank draws the blocks it needs and keeps its part.
Cost: a rank draws its own rows of row-split weights, and all of a column-split one (about 150 M values a second and core).
"""

import hashlib
from collections.abc import Iterator

import numpy as np
import torch

from pretrain.config.derive import padded_vocab_size
from pretrain.config.schema import RunConfig
from pretrain.model.tensor_names import EMBEDDING, OUTPUT
from pretrain.model.translate import residual_init_std

ROWS_PER_BLOCK = 64


def full_rows(*, seed: int, name: str, std: float, rows: range, columns: int) -> np.ndarray:
    """Rows of a full weight, normal with mean 0: float32 [len(rows), columns].

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
def initialize(chunk: torch.nn.Module, run: RunConfig, *, tp_rank: int) -> None:
    """Fill every parameter of one pipeline chunk of a GPTModel, this rank's part of it."""
    seed, tied = run.train.seed, run.model.share_embeddings_and_output_weights
    for name, parameter in global_named_parameters(chunk):
        if parameter.dim() == 1:
            parameter.fill_(1.0)
        elif name in (EMBEDDING, OUTPUT):
            source = EMBEDDING if tied else name
            _fill(parameter, source, run.model.init_method_std, seed, row_start=tp_rank * parameter.shape[0])
            _zero_padding(parameter, run, tp_rank)
        elif name.endswith("linear_fc1.weight"):  # [gate; up], each split by itself
            for half, part in zip(parameter.chunk(2), ("gate", "up"), strict=True):
                _fill(half, f"{name}/{part}", run.model.init_method_std, seed, row_start=tp_rank * half.shape[0])
        elif name.endswith("linear_qkv.weight"):  # whole query groups per rank, one after the other
            _fill(parameter, name, run.model.init_method_std, seed, row_start=tp_rank * parameter.shape[0])
        else:  # linear_proj, linear_fc2: split along the columns
            assert name.endswith(("linear_proj.weight", "linear_fc2.weight")), f"{name} has no rule for initial values"
            _fill(parameter, name, residual_init_std(run), seed, column_start=tp_rank * parameter.shape[1],
                  columns=parameter.shape[1] * run.parallel.tensor_model_parallel_size)  # fmt: skip


def global_named_parameters(chunk: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Parameters of a pipeline chunk under the names they have in the whole model (layers counted from 0 globally)."""
    decoder: torch.nn.Module = chunk.decoder  # type: ignore[assignment]
    numbers = [layer.layer_number - 1 for layer in decoder.layers]  # type: ignore[operator,union-attr]
    for name, parameter in chunk.named_parameters():
        if name.startswith("decoder.layers."):
            _, _, local, rest = name.split(".", 3)
            name = f"decoder.layers.{numbers[int(local)]}.{rest}"
        yield name, parameter


def _fill(
    target: torch.Tensor,
    name: str,
    std: float,
    seed: int,
    *,
    row_start: int = 0,
    column_start: int = 0,
    columns: int | None = None,
) -> None:
    rows = range(row_start, row_start + target.shape[0])
    full = full_rows(seed=seed, name=name, std=std, rows=rows, columns=columns or target.shape[1])
    target.copy_(torch.from_numpy(full[:, column_start : column_start + target.shape[1]]))


def _zero_padding(parameter: torch.Tensor, run: RunConfig, tp_rank: int) -> None:
    """Padding rows are never read by a token nor seen by the loss; zeros make that visible."""
    first_row = tp_rank * parameter.shape[0]
    assert first_row + parameter.shape[0] <= padded_vocab_size(run.model), "more rows than the padded vocabulary"
    parameter[max(0, run.model.vocab_size - first_row) :].zero_()
