"""Map the rows of our tensors to the tensors of a Hugging Face model and back, by the family's table. Pure arithmetic; no
torch."""

from dataclasses import dataclass, replace

from pretrain.checkpoint.disk.boxes import Box
from pretrain.config.schema import ModelConfig
from pretrain.model.families import family_of
from pretrain.model.families.family import Family
from pretrain.model.families.table import Part, TensorSpec, layer_tensor, part_name
from pretrain.model.families.tensors import table_of, tensors_of


@dataclass(frozen=True, kw_only=True)
class HfTensor:
    """A tensor of the Hugging Face model, made of blocks of rows of one of ours."""

    name: str
    shape: tuple[int, ...]
    tensor: str
    """Name of our tensor."""
    boxes: tuple[Box, ...]
    """Blocks of our tensor, in the order of the Hugging Face tensor's rows."""
    constant: float | None = None
    """Its one value, where it is no tensor of ours but always the same; ``tensor`` is then empty."""


def our_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the full shape of every tensor of a model by its name in a checkpoint, in the model's order."""
    return {name: spec.shape for name, spec in tensors_of(model).items()}


def hf_tensors(model: ModelConfig, *, vocab_size: int) -> list[HfTensor]:
    """Return every tensor of the Hugging Face model, in its order, with ``vocab_size`` tokens: layer by layer, so that a reader
    of them in turn needs one layer's memory.

    Raises: UserError if no class of transformers computes the model.
    """
    family, table = family_of(model), table_of(replace(model, vocab_size=vocab_size))
    first, layer, last = (
        [_hf_tensor(family, spec, part) for spec in specs for part in spec.parts]
        for specs in (table.first, table.layer, table.last)
    )
    layer += [
        HfTensor(name=name, shape=(), tensor="", boxes=(), constant=value) for name, value in family.constants.items()
    ]
    return [*first, *(_in_layer(tensor, number) for number in range(table.num_layers) for tensor in layer), *last]


def _hf_tensor(family: Family, spec: TensorSpec, part: Part) -> HfTensor:
    columns = spec.shape[1:]
    boxes = tuple(Box(offset=(rows.start, *(0 for _ in columns)), size=(len(rows), *columns)) for rows in part.rows)
    shape = (sum(map(len, part.rows)), *columns)
    return HfTensor(name=family.names[part_name(spec.name, part)], shape=shape, tensor=spec.name, boxes=boxes)


def _in_layer(tensor: HfTensor, number: int) -> HfTensor:
    ours = layer_tensor(number, tensor.tensor) if tensor.constant is None else ""
    return replace(tensor, name=f"model.layers.{number}.{tensor.name}", tensor=ours)
