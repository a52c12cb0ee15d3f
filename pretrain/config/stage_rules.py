"""Rules of the pipeline: a layer for every model chunk, and every layer in one."""

from fanal.errors import UserError
from fanal.shown import shown
from pretrain.config.derive import next_multiple
from pretrain.config.schema import ModelConfig, ParallelConfig
from pretrain.config.stages import balanced_sizes, chunk_sizes, num_chunks

MOST_LISTED = 64
"""Stages whose layers a message lists."""


def check_stages(parallel: ParallelConfig, model: ModelConfig) -> None:
    """Refuse layers that the stages of the pipeline cannot hold, or not as the config says.

    Raises: UserError naming the first broken rule.
    """
    pipeline, virtual = parallel.pipeline_model_parallel_size, parallel.virtual_pipeline_model_parallel_size
    if virtual > 1 and pipeline == 1:
        raise UserError(
            f"parallel.virtual_pipeline_model_parallel_size ({virtual}) needs parallel.pipeline_model_parallel_size above 1 "
            "(now 1); set it to 1"
        )
    if model.num_layers < num_chunks(parallel):
        raise UserError(
            f"model.num_layers ({model.num_layers}) must be at least {_stages(parallel)}, so that every stage has a layer; "
            f"{_other_sizes(parallel, model)}"
        )
    if parallel.pipeline_layers is not None:
        _check_list(parallel.pipeline_layers, parallel, model)
    elif _stated_ends(parallel):
        _check_ends(parallel, model)
    elif model.num_layers % num_chunks(parallel):
        raise UserError(
            f"model.num_layers ({model.num_layers}) must be a multiple of {_stages(parallel)}, where parallel.pipeline_layers does "
            f"not say how many layers each stage has; {_listed(parallel, model)}"
        )


def _check_list(layers: list[int], parallel: ParallelConfig, model: ModelConfig) -> None:
    if len(layers) != num_chunks(parallel) or min(layers, default=0) < 1 or sum(layers) != model.num_layers:
        raise UserError(
            f"parallel.pipeline_layers ({shown(layers)}) must have {_stages(parallel)} numbers, each at least 1, that add up to "
            f"model.num_layers ({model.num_layers}); {_listed(parallel, model)}"
        )
    if _stated_ends(parallel):
        raise UserError(
            f"{_named_ends(parallel)} must be null beside parallel.pipeline_layers, which says how many layers each stage has; "
            f"{_without_ends(parallel)} works"
        )


def _check_ends(parallel: ParallelConfig, model: ModelConfig) -> None:
    if parallel.pipeline_model_parallel_size == 1:
        raise UserError(
            f"{_named_ends(parallel)} must be null with parallel.pipeline_model_parallel_size 1, whose only stage has all layers; "
            f"{_without_ends(parallel)} works"
        )
    sizes = chunk_sizes(model, parallel)  # rounded down, so that they add up only where everything divides
    if min(sizes) < 1 or sum(sizes) != model.num_layers:
        raise UserError(
            f"{_named_ends(parallel)} must be a multiple of parallel.virtual_pipeline_model_parallel_size "
            f"({parallel.virtual_pipeline_model_parallel_size}), and leave each other rank of "
            f"parallel.pipeline_model_parallel_size ({parallel.pipeline_model_parallel_size}) the same multiple of it out of "
            f"model.num_layers ({model.num_layers}); "
            f"{_listed(parallel, model)}"
        )


def _listed(parallel: ParallelConfig, model: ModelConfig) -> str:
    """Advice that states the layers of every stage, of a pipeline that people can survey."""
    chunks = num_chunks(parallel)
    if chunks > MOST_LISTED:
        return _other_sizes(parallel, model)
    listed = ",".join(str(layers) for layers in balanced_sizes(model, chunks))  # one word for a shell
    alone = f" with {_without_ends(parallel)}" if _stated_ends(parallel) else ""
    return f"parallel.pipeline_layers=[{listed}]{alone} works"


def _other_sizes(parallel: ParallelConfig, model: ModelConfig) -> str:
    """Advice for stages that all have as many layers."""
    pipeline, works = parallel.pipeline_model_parallel_size, next_multiple(model.num_layers, num_chunks(parallel))
    fewer = max(size for size in range(1, min(pipeline, model.num_layers) + 1) if model.num_layers % size == 0)
    nulls = ["parallel.pipeline_layers=null"] if parallel.pipeline_layers is not None else []
    nulls += [_without_ends(parallel)] if _stated_ends(parallel) else []
    alone = f", both with {' and '.join(nulls)}" if nulls else ""
    return f"model.num_layers={works} works, or parallel.pipeline_model_parallel_size={fewer} with one virtual stage{alone}"


def _stages(parallel: ParallelConfig) -> str:
    return (
        f"parallel.pipeline_model_parallel_size ({parallel.pipeline_model_parallel_size}) * "
        f"parallel.virtual_pipeline_model_parallel_size ({parallel.virtual_pipeline_model_parallel_size}) = {num_chunks(parallel)}"
    )


def _stated_ends(parallel: ParallelConfig) -> dict[str, int]:
    names = ("num_layers_in_first_pipeline_stage", "num_layers_in_last_pipeline_stage")
    return {name: value for name in names if (value := getattr(parallel, name)) is not None}


def _named_ends(parallel: ParallelConfig) -> str:
    return " and ".join(f"parallel.{name} ({value})" for name, value in _stated_ends(parallel).items())


def _without_ends(parallel: ParallelConfig) -> str:
    return " and ".join(f"parallel.{name}=null" for name in _stated_ends(parallel))
