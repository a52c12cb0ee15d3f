"""What an optimizer keeps of the parameters of a rank, beside their masters: of some tensors less than of others."""

import math

from pretrain.config.schema import RunConfig
from pretrain.model.families.split import local_shape
from pretrain.model.families.tensors import table_of
from pretrain.optim.registry import optimizer_of
from pretrain.plan.shapes import Shapes, stage_parameters


def state_numbers(run: RunConfig, shapes: Shapes, stage: int) -> int:
    """Return the numbers of all states of a rank of a pipeline stage, as if no replica shared them."""
    stated = optimizer_of(run.optim)
    whole = stage_parameters(run.model, shapes, stage) * len(stated.states)
    if stated.states_of is None:
        return whole
    fewer = sum(
        math.prod(local_shape(spec, num_ranks=shapes.tensor)) * (len(stated.states) - len(stated.kept_of(spec)))
        for spec in table_of(run.model).layer
    )
    return whole - shapes.layers_of(stage) * fewer
