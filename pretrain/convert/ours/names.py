"""Which part of which of our tensors is which tensor of a Hugging Face model, in both directions, by the family's table. Pure
arithmetic; no torch."""

from dataclasses import dataclass, replace

from pretrain.checkpoint.disk.boxes import Box
from pretrain.config.schema import ModelConfig
from pretrain.model.families import table_of, tensors_of
from pretrain.model.families.table import HfPart, TensorSpec


@dataclass(frozen=True, kw_only=True)
class HfTensor:
    """A tensor of the Hugging Face model: rows of ours, one block after the other."""

    name: str
    shape: tuple[int, ...]
    tensor: str
    """Ours."""
    boxes: tuple[Box, ...]
    """Of it, in the order of the rows."""


def our_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of a model under the name it has in a checkpoint, with its whole shape, in the model's order."""
    return {name: spec.shape for name, spec in tensors_of(model).items()}


def hf_tensors(model: ModelConfig, *, vocab_size: int) -> list[HfTensor]:
    """Every tensor of the Hugging Face model, in its order, with ``vocab_size`` tokens: layer by layer, so that a reader that
    goes through it needs one layer's memory."""
    specs = table_of(replace(model, vocab_size=vocab_size)).as_exported()
    return [_hf_tensor(spec, part) for spec in specs for part in spec.hf_parts]


def _hf_tensor(spec: TensorSpec, part: HfPart) -> HfTensor:
    columns = spec.shape[1:]
    boxes = tuple(Box(offset=(rows.start, *(0 for _ in columns)), size=(len(rows), *columns)) for rows in part.rows)
    return HfTensor(name=part.name, shape=(sum(map(len, part.rows)), *columns), tensor=spec.name, boxes=boxes)
