"""The layouts in which a run can be proved on this machine: those that the config's own rules accept and that fit its ranks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from fanal.errors import UserError
from fanal.shown import in_yaml
from pretrain.config.derive import world_size
from pretrain.config.layout_words import split_axes
from pretrain.config.rules import check
from pretrain.config.schema import ParallelConfig, RunConfig
from pretrain.config.stages import balanced_sizes, chunk_sizes

Shape = tuple[int, int, int, int]
"""Tensor, pipeline, context and data parallel size."""
SHAPES: tuple[Shape, ...] = ((1, 1, 1, 1), (2, 1, 1, 1), (1, 2, 1, 1), (1, 1, 2, 1), (1, 1, 1, 2))
"""To try as other layouts: each axis by itself, and none."""
WIDER: tuple[Shape, ...] = ((2, 2, 1, 1), (2, 1, 2, 1), (2, 1, 1, 2), (1, 2, 2, 1), (1, 2, 1, 2), (1, 1, 2, 2))
"""To try with SHAPES where the config's own layout needs more ranks than there are."""
STATED = (
    "tensor_model_parallel_size", "pipeline_model_parallel_size", "virtual_pipeline_model_parallel_size", "context_parallel_size",
    "data_parallel_size", "pipeline_layers", "num_layers_in_first_pipeline_stage", "num_layers_in_last_pipeline_stage",
    "sequence_parallel",
)  # fmt: skip
"""What a layout states, whatever the config has."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A way to lay the run out."""

    name: str
    """Such as TP2-PP2; also a folder's name, in small letters."""
    overrides: tuple[str, ...]
    """Overrides that give the config this layout, as ``key=value``."""
    num_ranks: int


def layouts_for(run: RunConfig, *, num_ranks: int) -> tuple[Layout, list[Layout]]:
    """(The layout of straight and killed runs, other ones to resume in).

    The first is the config's own if ``num_ranks`` ranks hold it, else one that they do: which has as many of its axes as possible,
    and then the widest.
    Raises: UserError if no layout of this config fits.
    """
    own = replace(run.parallel, data_parallel_size=run.parallel.data_parallel_size or 1)
    smaller = sorted((*WIDER, *SHAPES[1:], SHAPES[0]), key=lambda shape: -_axes_shared(own, shape))
    base = next(_fitting(run, [own, *(_shaped(run, shape) for shape in smaller)], num_ranks), None)
    if base is None:
        raise UserError(
            f"the config's layout needs {world_size(own)} ranks, this machine has {num_ranks} for it, and no smaller layout that "
            "was tried passes the rules of the config; parallel.tensor_model_parallel_size=1 "
            "parallel.pipeline_model_parallel_size=1 parallel.context_parallel_size=1 parallel.data_parallel_size=1 works where "
            "train.micro_batch_size divides train.global_batch_size"
        )
    others = _fitting(run, [_shaped(run, shape) for shape in SHAPES], num_ranks)
    return base, [layout for layout in others if layout.name != base.name]


def _fitting(run: RunConfig, candidates: Sequence[ParallelConfig], num_ranks: int) -> Iterator[Layout]:
    for parallel in candidates:
        if world_size(parallel) > num_ranks:
            continue
        try:
            check(replace(run, parallel=parallel))
        except UserError:
            continue  # heads, layers or the batch do not divide so
        yield _layout(run, parallel)


def _axes_shared(own: ParallelConfig, shape: Shape) -> int:
    """Return how many axes are split in both."""
    return sum(size > 1 and other > 1 for size, other in zip(_sizes(own), shape, strict=True))


def _sizes(parallel: ParallelConfig) -> Shape:
    return (
        parallel.tensor_model_parallel_size,
        parallel.pipeline_model_parallel_size,
        parallel.context_parallel_size,
        parallel.data_parallel_size or 1,
    )


def _shaped(run: RunConfig, shape: Shape) -> ParallelConfig:
    """The config's own choices with other sizes; what a size of one forbids is switched off."""
    tensor, pipeline, context, data = shape
    layers = run.model.num_layers
    virtual = run.parallel.virtual_pipeline_model_parallel_size if pipeline > 1 else 1
    virtual = virtual if layers % (pipeline * virtual) == 0 else 1
    is_unequal = layers >= pipeline and layers % pipeline != 0
    return replace(
        run.parallel,
        tensor_model_parallel_size=tensor,
        pipeline_model_parallel_size=pipeline,
        context_parallel_size=context,
        virtual_pipeline_model_parallel_size=virtual,
        pipeline_layers=balanced_sizes(run.model, pipeline) if is_unequal else None,
        num_layers_in_first_pipeline_stage=None,
        num_layers_in_last_pipeline_stage=None,
        data_parallel_size=data,
        sequence_parallel=run.parallel.sequence_parallel and tensor > 1,
    )


def _layout(run: RunConfig, parallel: ParallelConfig) -> Layout:
    split, sizes = split_axes(parallel), chunk_sizes(run.model, parallel)
    if len(set(sizes)) > 1:
        split.append("-".join(["layers", *map(str, sizes)]))
    return Layout(
        name="-".join(split) or "one-rank",
        overrides=tuple(f"parallel.{name}={in_yaml(getattr(parallel, name))}" for name in STATED),
        num_ranks=world_size(parallel),
    )
