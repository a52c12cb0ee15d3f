"""Map the rows of our tensors to the tensors of a Hugging Face model and back, by the family's table. Pure arithmetic; no
torch."""

from dataclasses import dataclass, replace

from pretrain.checkpoint.disk.boxes import Box
from pretrain.config.schema import ModelConfig
from pretrain.model.families import table_of, tensors_of
from pretrain.model.families.table import HfPart, TensorSpec


@dataclass(frozen=True, kw_only=True)
class HfTensor:
    """A tensor of the Hugging Face model, made of blocks of rows of one of ours."""

    name: str
    shape: tuple[int, ...]
    tensor: str
    """Name of our tensor."""
    boxes: tuple[Box, ...]
    """Blocks of our tensor, in the order of the Hugging Face tensor's rows."""


def our_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the full shape of every tensor of a model by its name in a checkpoint, in the model's order."""
    return {name: spec.shape for name, spec in tensors_of(model).items()}


def hf_tensors(model: ModelConfig, *, vocab_size: int) -> list[HfTensor]:
    """Return every tensor of the Hugging Face model, in its order, with ``vocab_size`` tokens: layer by layer, so that a reader
    of them in turn needs one layer's memory."""
    specs = table_of(replace(model, vocab_size=vocab_size)).as_exported()
    return [_hf_tensor(spec, part) for spec in specs for part in spec.hf_parts]


def _hf_tensor(spec: TensorSpec, part: HfPart) -> HfTensor:
    columns = spec.shape[1:]
    boxes = tuple(Box(offset=(rows.start, *(0 for _ in columns)), size=(len(rows), *columns)) for rows in part.rows)
    return HfTensor(name=part.name, shape=(sum(map(len, part.rows)), *columns), tensor=spec.name, boxes=boxes)
