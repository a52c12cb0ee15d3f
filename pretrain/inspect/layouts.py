"""The layouts in which a run can be proved on this machine: those that the config's own rules accept and that fit its ranks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from fanal.errors import UserError
from pretrain.config.derive import world_size
from pretrain.config.rules import check
from pretrain.config.schema import ParallelConfig, RunConfig

SHAPES = ((1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2))
"""(tensor, pipeline, data) parallel sizes to try as other layouts: each axis by itself, and none."""
WIDER = ((2, 2, 1), (2, 1, 2), (1, 2, 2))
"""Tried first where the config's own layout needs more ranks than there are: two axes are closer to it than one."""


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

    The first is the config's own if ``num_ranks`` ranks hold it, else the widest that they do.
    Raises: UserError if no layout of this config fits.
    """
    own = replace(run.parallel, data_parallel_size=run.parallel.data_parallel_size or 1)
    base = next(
        _fitting(run, [own, *(_shaped(run, shape) for shape in (*WIDER, *SHAPES[1:], SHAPES[0]))], num_ranks), None
    )
    if base is None:
        raise UserError(
            f"the config's layout needs {world_size(own)} ranks, this machine has {num_ranks} for it, and no smaller layout that "
            "was tried passes the rules of the config; parallel.tensor_model_parallel_size=1 "
            "parallel.pipeline_model_parallel_size=1 parallel.data_parallel_size=1 works where train.micro_batch_size divides "
            "train.global_batch_size"
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
        yield _layout(parallel)


def _shaped(run: RunConfig, shape: tuple[int, int, int]) -> ParallelConfig:
    """The config's own choices with other sizes; what a size of one forbids is switched off."""
    tensor, pipeline, data = shape
    virtual = run.parallel.virtual_pipeline_model_parallel_size if pipeline > 1 else 1
    return replace(
        run.parallel,
        tensor_model_parallel_size=tensor,
        pipeline_model_parallel_size=pipeline,
        virtual_pipeline_model_parallel_size=virtual if run.model.num_layers % (pipeline * virtual) == 0 else 1,
        data_parallel_size=data,
        sequence_parallel=run.parallel.sequence_parallel and tensor > 1,
    )


def _layout(parallel: ParallelConfig) -> Layout:
    sizes = {
        "tensor_model_parallel_size": parallel.tensor_model_parallel_size,
        "pipeline_model_parallel_size": parallel.pipeline_model_parallel_size,
        "virtual_pipeline_model_parallel_size": parallel.virtual_pipeline_model_parallel_size,
        "data_parallel_size": parallel.data_parallel_size,
    }
    letters = ("TP", "PP", "VP", "DP")
    split = [f"{letter}{size}" for letter, size in zip(letters, sizes.values(), strict=True) if size != 1]
    values = {**sizes, "sequence_parallel": str(parallel.sequence_parallel).lower()}
    return Layout(
        name="-".join(split) or "one-rank",
        overrides=tuple(f"parallel.{name}={value}" for name, value in values.items()),
        num_ranks=world_size(parallel),
    )
