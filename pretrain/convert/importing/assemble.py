"""Assemble our tensors from those of a Hugging Face folder, a block of rows at a time. No torch."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from pretrain.config.schema import ModelConfig
from pretrain.convert.ours.names import hf_tensors, our_shapes
from pretrain.convert.theirs.weights import BadWeightsError, HfWeights
from pretrain.model.families.family import HF_EMBEDDING, HF_OUTPUT

BLOCK_BYTES = 32 << 20
"""Bytes of one tensor, as float32, in memory at a time, at most."""
IGNORED = ".self_attn.rotary_emb.inv_freq"
"""End of the names of rotary frequencies, which old Llama folders store; they follow from rope_theta."""


@dataclass(frozen=True, kw_only=True)
class SourceRows:
    """Rows of one of our tensors, and where they are in the folder."""

    first_row: int
    num_rows: int
    name: str
    name_first_row: int


@dataclass(frozen=True)
class Assembly:
    """Every tensor of our model, readable from a folder whose tensors were checked."""

    weights: HfWeights
    shapes: dict[str, tuple[int, ...]]
    rows: dict[str, list[SourceRows]]
    """The rows of each of our tensors, in order, and their source; rows that pad the vocabulary have none."""

    def blocks(self, tensor: str) -> Iterator[np.ndarray]:
        """Yield a tensor from its first row to its last: float32, contiguous, at most BLOCK_BYTES each.

        Raises: BadWeightsError.
        """
        shape = self.shapes[tensor]
        row_bytes = 4 * (shape[1] if len(shape) == 2 else 1)
        step = max(1, BLOCK_BYTES // row_bytes)
        row = 0
        for part in self.rows[tensor]:
            assert part.first_row == row, f"rows of {tensor} continue at {part.first_row}, not at {row}"
            for at in range(0, part.num_rows, step):
                yield self.weights.read_rows(part.name, part.name_first_row + at, min(step, part.num_rows - at))
            row += part.num_rows
        for at in range(row, shape[0], step):  # padding of the vocabulary
            yield np.zeros((min(step, shape[0] - at), *shape[1:]), np.float32)

    def read(self, tensor: str) -> np.ndarray:
        """Read the whole tensor. Raises: BadWeightsError."""
        return np.concatenate(list(self.blocks(tensor)))


def assemble(weights: HfWeights, model: ModelConfig) -> Assembly:
    """Check every tensor of a folder by name and shape against the model.

    Raises: BadWeightsError naming a tensor that is missing, left over, or of another shape.
    """
    if model.num_layers > len(weights.entries):  # before as many names are made
        raise BadWeightsError(
            f"{weights.folder} holds {len(weights.entries):,} tensors, fewer than the {model.num_layers:,} layers "
            "(num_hidden_layers) of its config.json; copy config.json and the weights of one model"
        )
    expected = {tensor.name: tensor for tensor in hf_tensors(model, vocab_size=model.vocab_size)}
    entries = weights.entries
    constants = {name: tensor.constant for name, tensor in expected.items() if tensor.constant is not None}
    missing = [name for name in expected if name not in entries and name not in constants]
    if missing:
        raise BadWeightsError(
            f"{weights.folder} lacks {_shown(missing)}, which its config.json implies; copy the folder again"
        )
    for name, tensor in expected.items():
        if name in entries and entries[name].shape != tensor.shape:
            raise BadWeightsError(
                f"{name} in {weights.folder / entries[name].file} has shape {entries[name].shape}; its config.json implies "
                f"{tensor.shape}; copy config.json and the weights of one model"
            )
    unexpected = [name for name in entries if name not in expected and not name.endswith(IGNORED)]
    if unexpected == [HF_OUTPUT] and model.share_embeddings_and_output_weights:
        _check_copy(weights)
    elif unexpected:
        raise BadWeightsError(
            f"{weights.folder} holds {_shown(unexpected)}, and the model that its config.json describes has no such tensor"
        )
    _check_constants(weights, {name: value for name, value in constants.items() if name in entries})
    rows: dict[str, list[SourceRows]] = {name: [] for name in our_shapes(model)}
    for tensor in expected.values():
        first = 0
        for box in tensor.boxes:
            rows[tensor.tensor].append(
                SourceRows(first_row=box.offset[0], num_rows=box.size[0], name=tensor.name, name_first_row=first)
            )
            first += box.size[0]
    ordered = {name: sorted(found, key=lambda part: part.first_row) for name, found in rows.items()}
    return Assembly(weights, our_shapes(model), ordered)


def _check_constants(weights: HfWeights, constants: Mapping[str, float]) -> None:
    """Check that what is no parameter has the value that the family computes with. Raises: BadWeightsError."""
    for name, value in constants.items():
        found = float(weights.read_rows(name, 0, 1).reshape(-1)[0])
        if not math.isclose(found, value, rel_tol=2**-8):  # bf16 is as exact as that
            raise BadWeightsError(
                f"{name} in {weights.folder / weights.entries[name].file} is {found:g} and must be {value:g}; another value is not "
                "supported"
            )


def _check_copy(weights: HfWeights) -> None:
    """Check that the output layer of a tied model is a copy of its embedding. Raises: BadWeightsError."""
    left, right = weights.entries[HF_EMBEDDING], weights.entries[HF_OUTPUT]
    is_same = left.shape == right.shape
    step = max(1, BLOCK_BYTES // (4 * left.shape[1]))
    for row in range(0, left.shape[0], step) if is_same else ():
        count = min(step, left.shape[0] - row)
        embedding, output = (weights.read_rows(name, row, count) for name in (HF_EMBEDDING, HF_OUTPUT))
        is_same = is_same and np.array_equal(embedding, output)
    if not is_same:
        raise BadWeightsError(
            f"{HF_OUTPUT} in {weights.folder} must equal {HF_EMBEDDING}, because its config.json ties them "
            "(tie_word_embeddings true), and differs; tie_word_embeddings false works if the output layer is right"
        )


def _shown(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more tensors" if len(names) > 3 else "")
